"""Pairs of texts and architectures: how well they are told apart and found again, and what gives answers away."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import chain
from random import Random

import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from text_requests import mean
from torch import Tensor
from tqdm.auto import tqdm

from archgen.ask import ranked
from archgen.caption import Text, Writer
from archgen.corpus import Corpus, Mixture
from archgen.describe import describe
from archgen.text import ArchBERT
from archgen.train_text import drawn_pairs
from archgen.understanding import ALIKE, Refused, likeness, understand
from archgen.vocabulary import MILLIONS, Facts, Predicate, Request, facts_of


# ---- what gives answers away ---------------------------------------------------------------------------------------
def leaks(n: int = 40, seed: int = 6) -> dict[str, float]:
    """AUC of guesses, from the architecture alone, whether a text of training's pairs is true of it: 0.5 is fair.

    Every text has as many true pairs as any other, so that a text alone tells nothing.

    Args:
        n: Batches of pairs; guesses are learned from one half and measured on the other.
        seed: Of the pairs.
    """
    found = {}
    for name in ("nasbench201", "nasbench101", "mnasnet"):
        corpus = Corpus(facts_of(name), "without")
        for kind in ("requests", "captions"):
            sides, labels = [], []
            for step in tqdm(range(n), desc=f"{name}, {kind}", leave=False):
                codes, label = _training_pairs(corpus, kind, Random(seed + step))
                values = torch.stack([value.double() for value in corpus.facts.of(codes).values()], -1)
                sides.append(torch.cat([codes.double(), values], -1))
                labels.append(label)
            side, label = torch.cat(sides).numpy(), torch.cat(labels).numpy()
            half = len(label) // 2
            guess = HistGradientBoostingClassifier(max_iter=60).fit(side[:half], label[:half])
            auc = roc_auc_score(label[half:], guess.decision_function(side[half:]))
            found[f"{name}, {kind}"] = round(float(auc), 4)
    return found


def _training_pairs(corpus: Corpus, kind: str, random: Random) -> tuple[Tensor, Tensor]:
    """Codes and labels of the pairs of one batch, as training draws them where nothing was learned yet."""
    if kind == "captions":
        texts, described = corpus.captions(10, random)
        found, true = corpus.of_captions(described, random)
    else:
        texts = corpus.texts(32, random, Mixture())
        found, true = corpus.of_requests(texts, random)
    codes = torch.stack([corpus.facts.space.encode(one) for one in found])
    _, arch, label = drawn_pairs(true, torch.zeros(true.shape), kind == "captions", random)
    return codes[arch], label


# ---- one word or number apart ---------------------------------------------------------------------------------------
FLIPS = (
    ("at least", "at most"), ("more than", "fewer than"), ("no more than", "no fewer than"), ("over", "under"),
    ("above", "below"), ("minimum", "maximum"), ("min ", "max "), (">=", "<="), ("greater than", "less than"),
)  # fmt: skip
NEGATIONS = (
    ("with ", "without "), ("has ", "lacks "), ("include ", "exclude "), ("required", "forbidden"),
    ("enabled", "disabled"), ("allowed", "not allowed"), ("I want ", "I don't want "), ("some ", "no "),
    ("contains ", "doesn't contain "),
)  # fmt: skip
OPPOSITE = {"<=": ">=", ">=": "<=", "<": ">", ">": "<"}


def twins(model: ArchBERT, n: int = 400, seed: int = 2, method: str = "ask") -> dict[str, float]:
    """Texts one word or number apart, in new phrases: which is preferred for a cell that only one is true of."""
    facts, random = facts_of("nasbench201"), Random(seed)
    writer, generator = Writer(facts, "phrases"), torch.Generator().manual_seed(seed)
    kinds = {"number": _other_number, "kernel": _other_kernel, "comparison": _flipped, "negation": _negated}
    found: dict[str, list[bool]] = {name: [] for name in kinds}
    while min(map(len, found.values())) < n // len(kinds):
        text = writer.request(random, 1)
        for name, change in kinds.items():
            twin = change(text, random)
            if twin is None or len(found[name]) >= n // len(kinds):
                continue
            pair = [(text.text, text.request), twin]
            random.shuffle(pair)
            (words, request), (other_words, other_request) = pair
            apart = facts.holds(request, facts.table) & ~facts.holds(other_request, facts.table)
            if apart.any():
                rows = apart.nonzero().flatten()
                code = facts.members[rows[torch.randint(len(rows), (1,), generator=generator)]]
                scores = _preferences(model, [words, other_words], facts, code, method)
                found[name].append(scores[0] > scores[1])
    return {name: mean(right) for name, right in found.items()} | {"all": mean(chain(*found.values()))}


def _preferences(model: ArchBERT, texts: list[str], facts: Facts, code: Tensor, method: str) -> list[float]:
    """How well each text fits an architecture; a refused one not at all."""
    if method == "embedding":
        near = model.hear(texts, facts.space.name)[1] @ model.embed(facts.space.decode_all(code)).T
        return near[:, 0].tolist()
    understood = understand(texts, facts.space.name, model)
    return [-1.0 if isinstance(one, Refused) else one.score(code).item() for one in understood]


Twin = tuple[str, Request]


def _only(text: Text) -> Predicate | None:
    """The predicate of a text that has one alone."""
    single = len(text.request) == 1 and len(text.request[0]) == 1
    return text.request[0][0] if single else None


def _other_number(text: Text, random: Random) -> Twin | None:
    """A count, written in digits, one off."""
    one = _only(text)
    digit = re.findall(r"(?<![\w.x])\d(?![\w.,])", text.text)
    if one is None or text.pointers != (0,) or one.left[0] in MILLIONS or digit != [f"{one.right:g}"]:
        return None
    other = one.right + random.choice([-1, 1]) if one.right else 1.0
    words = re.sub(r"(?<![\w.x])\d(?![\w.,])", f"{other:g}", text.text)
    return words, ((replace(one, right=other),),)


def _other_kernel(text: Text, random: Random) -> Twin | None:
    """1x1 for 3x3, or the other way."""
    here = [kernel for kernel in ("3x3", "1x1") if kernel in text.text]
    used = {name for clause in text.request for one in clause for name in one.left if name.startswith("conv")}
    if len(here) != 1 or used != {f"conv{here[0]}"} or any(isinstance(c[0].right, tuple) for c in text.request):
        return None
    swap = {"conv3x3": "conv1x1", "conv1x1": "conv3x3"}
    request = tuple(
        tuple(replace(one, left=tuple(swap.get(name, name) for name in one.left)) for one in clause)
        for clause in text.request
    )
    return text.text.replace(here[0], {"3x3": "1x1", "1x1": "3x3"}[here[0]]), request


def _flipped(text: Text, random: Random) -> Twin | None:
    """The other comparison."""
    one = _only(text)
    pairs = [(a, b) for pair in FLIPS for a, b in (pair, pair[::-1]) if re.search(rf"\b{a}\b|{a}(?=[ \d])", text.text)]
    if one is None or one.compare not in OPPOSITE or len(pairs) != 1 or not isinstance(one.right, float):
        return None
    return text.text.replace(*pairs[0], 1), ((replace(one, compare=OPPOSITE[one.compare]),),)


def _negated(text: Text, random: Random) -> Twin | None:
    """With for without, or the other way."""
    one = _only(text)
    if one is None or text.phrases not in ({"present"}, {"absent"}):
        return None
    place = 0 if "present" in text.phrases else 1
    pairs = [(pair[place], pair[1 - place]) for pair in NEGATIONS if pair[place] in text.text]
    others = [word for pair in NEGATIONS for word in pair if word in text.text]
    if len(pairs) != 1 or len(others) != 1:
        return None
    opposite = Predicate(one.left, *(("==", 0.0) if place == 0 else (">=", 1.0)))
    return text.text.replace(*pairs[0], 1), ((opposite,),)


# ---- finding --------------------------------------------------------------------------------------------------------
def retrieval(model: ArchBERT, n: int = 100, captions: int = 1000, seed: int = 3) -> dict[str, float]:
    """Text to architecture among all cells (nDCG@10), and architecture to text among captions (R@1)."""
    facts, random = facts_of("nasbench201"), Random(seed)
    writer = Writer(facts, "phrases")
    gains = {"with reader": [], "embedding alone": []}
    discount = 1 / torch.arange(2, 12).double().log2()
    everything = model.embed(facts.space.decode_all(facts.members))
    while len(gains["with reader"]) < n:
        text = writer.request(random)
        true = facts.holds(text.request, facts.table)
        if true.sum() < 10:
            continue
        best = ranked(text.text, "nasbench201", facts.members, vectors=everything, model=model)[:10]
        plain = (everything @ model.hear([text.text], "nasbench201")[1][0]).topk(10).indices
        for name, order in (("with reader", best), ("embedding alone", plain)):
            gains[name].append(((true[order].double() * discount).sum() / discount.sum()).item())
    result = {f"nDCG@10, {name}": mean(values) for name, values in gains.items()}
    return result | back(facts, model, captions, random)


def back(facts: Facts, model: ArchBERT, captions: int, random: Random, close: int = 50) -> dict[str, float]:
    """R@1 of the description of an unseen architecture among many, and the other way round; chance is one in as many.

    By embeddings alone; and by what is read in the descriptions, of the closest then by their likeness.
    """
    order = torch.tensor(random.sample(range(len(facts.members)), len(facts.members)))
    cells, codes = (part[:captions] for part in Corpus(facts, "phrases").decoded(facts.members[order]))
    texts, values, own = [describe(cell, facts) for cell in cells], facts.of(codes), torch.arange(captions)
    heard, vectors = model.hear(texts, facts.space.name)
    near = model.embed(cells) @ vectors.T  # (architectures, texts)
    understood = understand(texts, facts.space.name, model)
    none = torch.zeros(captions, dtype=torch.float64)
    read = torch.stack([none if isinstance(one, Refused) else one.expected(values) for one in understood], -1)
    read = read / read.amax(0).clamp_min(1e-9)  # of each text as a share of what meets it best
    rough = 10 * read + near
    closest = torch.zeros_like(near, dtype=torch.bool)
    for dim in (0, 1):
        closest.scatter_(dim, rough.topk(min(close, captions), dim).indices, True)
    fine = torch.full(near.shape, -torch.inf, dtype=torch.float64)
    for place, tokens in enumerate(tqdm(heard, desc="descriptions", leave=False)):
        rows = closest[:, place].nonzero().flatten()
        fine[rows, place] = likeness(model, facts, tokens, codes[rows])
    to_text, to_cell = (read + ALIKE * (fine - fine.amax(dim, True)).exp() for dim in (1, 0))
    return {
        "R@1, embedding": mean(near.argmax(-1) == own),
        "R@1": mean(to_text.argmax(-1) == own),
        "R@1, text to architecture": mean(to_cell.argmax(0) == own),
    }


# ---- clones ---------------------------------------------------------------------------------------------------------
def clones(model: ArchBERT, n: int = 1000, seed: int = 4) -> dict[str, float]:
    """AUC of unseen networks one change apart against random pairs: by `ArchBERT.clones`, and by what is simpler."""
    found = {}
    for name in ("nasbench201", "nasbench101", "mnasnet"):
        facts, generator = facts_of(name), torch.Generator().manual_seed(seed)
        corpus, random, one, near = Corpus(facts, "phrases"), Random(seed), [], []
        while len(one) < n:
            for pairs, more in zip((one, near), corpus.edited(random), strict=True):
                pairs += more
        far = facts.space.decode_all(facts.members[torch.randint(len(facts.members), (n,), generator=generator)])
        one, near = one[:n], near[:n]
        positive, negative = model.clones(one, near).diagonal(), model.clones(one, far).diagonal()
        found[f"{name}, one change"] = _auc(positive, negative)
        here, *there = (model.embed(part) for part in (one, near, far))
        found[f"{name}, embeddings of texts' space"] = _auc(*((here * other).sum(-1) for other in there))
        first, *others = (torch.stack([facts.space.encode(arch) for arch in part]) for part in (one, near, far))
        found[f"{name}, equal choices"] = _auc(*((first == other).double().mean(-1) for other in others))
    return found


def _auc(positive: Tensor, negative: Tensor) -> float:
    label = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)])
    return round(float(roc_auc_score(label, torch.cat([positive, negative]))), 4)
