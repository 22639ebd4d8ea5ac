"""The figures of ArchBERT: how well requests in words are met, refused, told apart and found again.

`python training/check_text.py --part queries --file tests/queries.jsonl`

Parts: `queries` (graded requests, with controls beside them; `--method` leaves something out, see `METHODS`),
`wording` (phrases and combinations that were kept from training), `leaks` (whether an architecture alone gives an
answer away), `twins` (texts that differ in one word or number), `retrieval` (text to architectures and back),
`clones` (networks one change apart against random pairs), `questions`, `speed`.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from torch import Tensor
from tqdm.auto import tqdm

from archgen.ask import answer, answers, ranked
from archgen.caption import Text, Writer
from archgen.constraint import Constraint
from archgen.corpus import Corpus, Mixture
from archgen.describe import describe
from archgen.guidance import Telling
from archgen.pipeline import ArchitecturePipeline
from archgen.text import ArchBERT
from archgen.train_text import drawn_pairs
from archgen.understand import (
    ALIKE,
    Refused,
    Understanding,
    encoded,
    fine_scores,
    likeness,
    question_of,
    understand,
)
from archgen.vocabulary import COMPARE, MILLIONS, Facts, Predicate, Request, countable, facts_of

ATTRIBUTES = {  # as the queries call them
    "num_conv3x3": "conv3x3", "num_conv1x1": "conv1x1", "num_avgpool": "pool", "num_skip": "skip",
    "num_none": "none", "depth": "depth", "params_m": "params", "flops_m": "flops",
}  # fmt: skip
REFUSALS = ("UNSAT", "OOS")
METHODS = {  # of answering a request
    "ask": "what users get: reader, generator that hears the words, fine score",
    "together": "what users get who ask for many texts at once",
    "unranked": "no embedding and no fine score: reader and generator alone",
    "lookup": "reader and a list of all members",
    "embedding": "the members nearest to the text, without reader and generator",
    "told": "no reader: the generator that hears the words",
    "told ranked": "no reader: the best of many draws of the generator that hears the words, by the fine score",
    "best": "best of many draws alone: by the fine score, of a generator that hears nothing",
}
READERLESS = ("embedding", "told", "told ranked", "best")
DRAWS = 256  # of which the best are taken


# ---- graded queries -------------------------------------------------------------------------------------------------
def parse(predicate: str) -> Predicate:
    """A predicate as the queries write it, such as `num_conv3x3 + num_conv1x1 <= 2`."""
    words = predicate.split()
    place = next(index for index, word in enumerate(words) if word in COMPARE)
    left = tuple(ATTRIBUTES[word] for word in words[:place:2])
    right = words[place + 1 :]
    if right[0] in ATTRIBUTES:
        return Predicate(left, words[place], tuple(ATTRIBUTES[word] for word in right[::2]))
    return Predicate(left, words[place], right[0] if right[0].startswith("q") else float(right[0]))


def grader(query: dict[str, Any]) -> Any:
    """What tells which encodings satisfy a query; None where it is to be refused."""
    if query["predicates"][0] in REFUSALS:
        return None
    facts = facts_of(space_of(query))
    if facts.space.name == "nasbench201":
        clauses = [part if isinstance(part, list) else [part] for part in query["predicates"]]
        request = tuple(tuple(map(parse, clause)) for clause in clauses)
        return lambda codes: facts.holds(request, facts.of(codes))
    constraint = Constraint(" and ".join(f"({part})" for part in query["predicates"]), facts.space)
    return constraint.holds


def space_of(query: dict[str, Any]) -> str:
    """Name of the space that a query is about."""
    return {"nb201": "nasbench201"}.get(query["space"], query["space"])


def queries(
    model: ArchBERT, file: str, n: int = 10, seed: int = 0, show: bool = False, method: str = "ask",
    shuffled: bool = False, weight: float = 1.0, generator: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Answer graded requests.

    Args:
        model: What is measured.
        file: One JSON object a line, with `query`, `space` and `predicates`.
        n: Architectures for each.
        seed: Of the sampler.
        show: Whether to print what went wrong.
        method: One of `METHODS`.
        shuffled: Whether every query is answered with another's text: a control.
        weight: How much words steer the generator.
        generator: Folder or name of a checkpoint, of whose space alone requests are answered; the shipped ones if
            absent.
    """
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}, got {method!r}")
    asked = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    found: dict[str, Any] = {}
    given = None if generator is None else ArchitecturePipeline.load(generator)
    for name in dict.fromkeys(map(space_of, asked)) if given is None else [given.space.name]:
        pipeline = given or ArchitecturePipeline.load(name)
        pipeline.set_progress_bar_config(disable=True)
        mine = [query for query in asked if space_of(query) == name]
        found[name] = _graded(model, pipeline, mine, facts_of(name), n, seed, show, method, shuffled, weight)
    return found


def _graded(
    model: ArchBERT, pipeline: ArchitecturePipeline, asked: list[dict[str, Any]], facts: Facts, n: int, seed: int,
    show: bool, method: str, shuffled: bool, weight: float,
) -> dict[str, Any]:  # fmt: skip
    graders = [grader(query) for query in asked]
    texts = [query["query"] for query in asked]
    if shuffled:
        Random(seed).shuffle(texts)
    readings = [None] * len(texts) if method in READERLESS else understand(texts, facts.space.name, model)
    given = _answers(model, pipeline, texts, readings, facts, n, seed, method, weight)
    rows = []
    for query, met, codes, reading in zip(asked, graders, given, readings, strict=True):
        row = {"query": query["query"], "refused": codes is None, "answerable": met is not None}
        if met is not None:
            good = met(codes).double() if codes is not None and len(codes) else torch.zeros(1)
            row |= {
                "at 1": good[0].item(),
                "at n": good.mean().item(),
                "base": met(facts.members).double().mean().item(),
                "distinct": 0 if codes is None else len(codes.unique(dim=0)),
                "apart": math.nan if codes is None or len(codes) < 2 else _apart(codes),
            }
        rows.append(row)
        if show and (row["refused"] == row["answerable"] or row.get("at n", 1) < 1):
            said = reading
            if isinstance(reading, Understanding):
                said = "; ".join(map(str, reading.record()["understood"]))
            print(f"- {query['query']!r}\n    asks {query['predicates']}\n    got  {said}  {row.get('at n')}")
    return _summary(rows, graders, facts, n)


def _answers(
    model: ArchBERT, pipeline: ArchitecturePipeline, texts: list[str], readings: list[Understanding | Refused | None],
    facts: Facts, n: int, seed: int, method: str, weight: float,
) -> list[Tensor | None]:  # fmt: skip
    """Encodings for each text, None where it is refused."""
    space, generator = facts.space.name, torch.Generator().manual_seed(seed)
    if method == "embedding":
        near = model.hear(texts, space)[1] @ model.embed(facts.space.decode_all(facts.members)).T
        return [*facts.members[near.topk(n).indices]]
    if method in READERLESS:
        if method != "best" and pipeline.text_denoiser is None:
            raise ValueError(f"the generator of {space} has no network that was trained with texts")
        results = []
        for tokens in tqdm(model.hear(texts, space)[0], desc=space, leave=False):
            telling = None if method == "best" else Telling(pipeline.text_denoiser, tokens, weight)
            codes = pipeline.free(n if method == "told" else DRAWS, generator, telling).unique(dim=0)
            fit = fine_scores(model, tokens, encoded(model, facts, codes))
            results.append(codes[fit.argsort(descending=True)[:n]])
        return results
    read = [one for one in readings if isinstance(one, Understanding)]
    if method == "lookup":
        met = [facts.members[facts.holds(one.request, facts.table)] for one in read]
        found = [codes[torch.randperm(len(codes), generator=generator)[:n]] for codes in met]
    elif method == "together":
        found = [result.codes for result in answers(pipeline, read, n, seed)]
    elif method == "unranked":
        found = [pipeline(n=n, where=one.where or None, generator=generator).codes for one in tqdm(read, leave=False)]
    else:
        found = [answer(pipeline, one, n, seed, weight).codes for one in tqdm(read, leave=False)]
    left = iter(found)
    return [None if isinstance(one, Refused) else next(left) for one in readings]


def _summary(rows: list[dict[str, Any]], graders: list[Any], facts: Facts, n: int) -> dict[str, Any]:
    can = [row for row in rows if row["answerable"]]
    cannot = [row for row in rows if not row["answerable"]]
    result = {"answerable": len(can), "to be refused": len(cannot)}
    if can:
        base = _mean(row["base"] for row in can)
        lift = _mean((row["at n"] - row["base"]) / (1 - row["base"]) for row in can)
        result |= {
            "satisfaction at 1": _mean(row["at 1"] for row in can),
            f"satisfaction at {n}": _mean(row["at n"] for row in can),
            "lift": lift,
            "false refusals": _mean(row["refused"] for row in can),
            "distinct": _mean(row["distinct"] for row in can),
            "apart": _mean(row["apart"] for row in can if not math.isnan(row["apart"])),
            "random": base,
            "best constant list": constant([met for met in graders if met is not None], facts, n),
        }
    if cannot:
        result["refused rightly"] = _mean(row["refused"] for row in cannot)
    return result


def _apart(codes: Tensor) -> float:
    """Mean share of the choices in which two of some architectures differ."""
    differ = (codes[:, None] != codes).double().mean(-1).sum()
    return (differ / (len(codes) * (len(codes) - 1))).item()


def constant(graders: list[Any], facts: Facts, n: int) -> float:
    """Satisfaction of the best list that is given to every request alike, found greedily."""
    met = torch.stack([met(facts.members) for met in graders]).double()
    return met.mean(0).topk(n).values.mean().item()


def _mean(values: Any) -> float:
    values = [float(value) for value in values]
    return round(sum(values) / len(values), 4)


# ---- other wordings -------------------------------------------------------------------------------------------------
SPLITS = {"without": "known wording", "phrases": "new wording", "pairs": "new combinations"}


def wording(model: ArchBERT, n: int = 300, seed: int = 1) -> dict[str, Any]:
    """Requests and texts to be refused, in known phrases, in new ones, and of pairs of phrases that are new."""
    found = {}
    for space in ("nasbench201", "nasbench101", "mnasnet"):
        facts = facts_of(space)
        for held_out, name in SPLITS.items():
            writer, random = Writer(facts, held_out), Random(seed)
            found[f"{space}, {name}"] = _read_right(model, [writer.request(random) for _ in range(n)], facts)
            if held_out == "pairs":
                continue
            odd = [writer.unknown(random) for _ in range(n // 4)] + [writer.unrelated(random) for _ in range(n // 4)]
            refused = [isinstance(one, Refused) for one in understand([text.text for text in odd], space, model)]
            found[f"{space}, {name}, refused"] = {
                "unknown": _mean(refused[: n // 4]),
                "unrelated": _mean(refused[n // 4 :]),
            }
    return found


def _read_right(model: ArchBERT, texts: list[Text], facts: Facts) -> dict[str, float]:
    """How often readings admit the same architectures, and only such as satisfy the text."""
    same, inside, refused, right_refusals = [], [], [], []
    results = understand([text.text for text in texts], facts.space.name, model)
    for text, result in zip(texts, results, strict=True):
        true = facts.holds(text.request, facts.table)
        if not true.any():
            right_refusals.append(isinstance(result, Refused) or not facts.holds(result.request, facts.table).any())
            continue
        refused.append(isinstance(result, Refused))
        if isinstance(result, Refused):
            same.append(False)
            inside.append(0.0)
            continue
        read = facts.holds(result.request, facts.table)
        same.append(bool((read == true).all()))
        inside.append((true & read).sum().item() / max(1, read.sum().item()))
    return {
        "read exactly": _mean(same),
        "satisfaction": _mean(inside),
        "false refusals": _mean(refused),
        "contradictions refused": _mean(right_refusals) if right_refusals else -1.0,
        "contradictions": len(right_refusals),
    }


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
    return {name: _mean(right) for name, right in found.items()} | {"all": _mean(chain(*found.values()))}


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
    result = {f"nDCG@10, {name}": _mean(values) for name, values in gains.items()}
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
        "R@1, embedding": _mean(near.argmax(-1) == own),
        "R@1": _mean(to_text.argmax(-1) == own),
        "R@1, text to architecture": _mean(to_cell.argmax(0) == own),
    }


# ---- clones and questions -------------------------------------------------------------------------------------------
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


def questions(model: ArchBERT, n: int = 200, seed: int = 5) -> dict[str, float]:
    """Exact answers to questions in new phrases, about random members."""
    found = {}
    for name in ("nasbench201", "nasbench101", "mnasnet"):
        facts, random = facts_of(name), Random(seed)
        writer = Writer(facts, "phrases")
        right: dict[str, list[bool]] = {"how": [], "whether": []}
        for _ in range(n):
            text, row = writer.question(random), facts.members[random.randrange(len(facts.members))]
            if len(countable(text.request)) < len(text.request):
                continue  # about what is measured
            values = facts.of(row[None])
            truth = bool(facts.met(text.request, values).all())
            if text.kind == "how":
                truth = sum(values[part].item() for part in facts.expand(text.request[0][0].left))
            try:
                given = question_of(text.text, name, model).answer(facts.space.decode(row)).value
            except Refused:
                given = None
            right[text.kind].append(given == truth and isinstance(given, bool) == isinstance(truth, bool))
        found |= {f"{name}, {kind}": _mean(values) for kind, values in right.items() if values}
    return found


# ---- time -----------------------------------------------------------------------------------------------------------
def speed(model: ArchBERT, n: int = 100, seed: int = 7) -> dict[str, float]:
    """Seconds of a first answer in a fresh process, of one more, and of many texts at once, with nothing else running.

    Args:
        model: The reader.
        n: Requests that are answered at once.
        seed: Of the requests.
    """
    command = "from archgen.cli import main; main()"
    asked = [sys.executable, "-c", command, "ask", "a small network without pooling"]
    began = time.perf_counter()
    subprocess.run(asked, check=True, capture_output=True)
    first = time.perf_counter() - began
    writer, random = Writer(facts_of("nasbench201"), "phrases"), Random(seed)
    texts = [writer.request(random).text for _ in range(n)]
    pipeline = ArchitecturePipeline.load("nasbench201")
    pipeline.set_progress_bar_config(disable=True)
    single = []
    for text in texts[:12]:
        began = time.perf_counter()
        for one in understand([text], "nasbench201", model):
            if isinstance(one, Understanding):
                answer(pipeline, one, 10)
        single.append(time.perf_counter() - began)
    began = time.perf_counter()
    read = understand(texts, "nasbench201", model)
    answers(pipeline, [one for one in read if isinstance(one, Understanding)], 10)
    found = {"first answer": first, "one more": median(single[2:]), f"{n} at once": time.perf_counter() - began}
    return {name: round(seconds, 2) for name, seconds in found.items()}


def check_text(
    part: str = "queries",
    checkpoint: str = "archbert",
    file: str = "tests/queries.jsonl",
    n: int | None = None,
    seed: int | None = None,
    show: bool = False,
    method: str = "ask",
    shuffled: bool = False,
    weight: float = 1.0,
    generator: str | None = None,
) -> None:
    """Measure one part and print it.

    Args:
        part: queries, wording, leaks, twins, retrieval, clones, questions or speed.
        checkpoint: Folder or name of the text model.
        file: Graded queries.
        n: How many; architectures a query, or texts.
        seed: Of everything drawn.
        show: Whether to print queries that were not answered rightly.
        method: How queries are answered, see `METHODS`; how twins are: ask or embedding.
        shuffled: Whether every query gets another's answer.
        weight: How much words steer the generator.
        generator: Folder or name of a generator, of whose space alone requests are answered.
    """
    parts = {"queries": queries, "wording": wording, "twins": twins, "retrieval": retrieval, "clones": clones,
             "questions": questions, "speed": speed}  # fmt: skip
    if part not in (*parts, "leaks"):
        raise ValueError(f"part is one of {', '.join(parts)} and leaks, got {part!r}")
    more: dict[str, Any] = {name: value for name, value in {"n": n, "seed": seed}.items() if value is not None}
    if part == "queries":
        more |= {"file": file, "show": show, "method": method, "shuffled": shuffled, "weight": weight}
        more["generator"] = generator
    elif part == "twins":
        more["method"] = method
    found = leaks(**more) if part == "leaks" else parts[part](ArchBERT.load(checkpoint), **more)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(check_text)
