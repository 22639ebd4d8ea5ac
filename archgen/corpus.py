"""The corpus: texts about a search space, each with what it means and with the architectures that it is true of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations
from random import Random
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Batch
from tqdm.auto import tqdm

from archgen.caption import Text, Writer
from archgen.checks import check_counts
from archgen.constraint import neighbours
from archgen.describe import described
from archgen.graph import Architecture, to_batch
from archgen.language import is_held_out
from archgen.reading import Unreadable, spelled
from archgen.show import write_lines
from archgen.space import SearchSpace
from archgen.vocabulary import Facts, check_words, facts_of

UNSEEN = 0.1  # share of networks, in whatever encoding, that are kept from training
SORTED = 4  # batches of texts that are sorted by length before one is taken
OTHERS = 64  # architectures of a batch that are drawn without looking at its texts
CLONES = 0.4  # share of the steps that look at clones, of those that look at architectures
LETTERS = 90  # a text on average, at most: batches of longer ones hold fewer

Codes = Int[Tensor, "archs holes"]
Architectures = list[Architecture]
Truth = Bool[Tensor, "texts archs"]


@dataclass
class Mixture:
    """Shares of the texts; the rest are requests.

    Args:
        caption: Share of the batches that hold descriptions of architectures, a third as many as other texts.
        unknown: Requests for what the space has no word for.
        unrelated: Texts that are no requests.
        anything: Requests that say nothing more.
        question: Questions about an architecture.
        looking: Share of the other batches that look at architectures too; descriptions always do, unless it is 0.
    """

    caption: float = 0.2
    unknown: float = 0.1
    unrelated: float = 0.09
    anything: float = 0.015
    question: float = 0.08
    looking: float = 0.5

    def __post_init__(self) -> None:
        """Check the shares."""
        shares = asdict(self)
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, got {share!r}")
        if self.unknown + self.unrelated + self.anything + self.question > 1:
            raise ValueError("the shares of unknown, unrelated, anything and question are at most 1 together")


class Corpus:
    """Texts about one space, and architectures for them.

    Args:
        facts: Of the space.
        held_out: Which phrases, see `Writer`, and which architectures: `without` those that are kept from training,
            `all`, or only those.
    """

    def __init__(self, facts: Facts, held_out: str):
        self.facts, self.writer, self.held_out = facts, Writer(facts, held_out), held_out

    def decoded(self, codes: Codes) -> tuple[Architectures, Codes]:
        """Those of some architectures that belong to this corpus, and their codes."""
        found = self.facts.space.decode_all(codes)
        if self.held_out == "all":
            return found, codes
        own = [is_held_out(one.hash, UNSEEN) != (self.held_out == "without") for one in found]
        return [one for one, here in zip(found, own, strict=True) if here], codes[torch.tensor(own, dtype=torch.bool)]

    def text(self, random: Random, mixture: Mixture) -> Text:
        """One text of any kind but captions, of which a reader can spell what it means."""
        shares = (mixture.unknown, mixture.unrelated, mixture.anything, mixture.question)
        kinds = ["unknown", "unrelated", "anything", "question", "request"]
        while True:
            kind = random.choices(kinds, [*shares, 1 - sum(shares)])[0]
            text = getattr(self.writer, kind)(random)
            try:
                spelled(text)
            except Unreadable:
                continue
            return text

    def texts(self, count: int, random: Random, mixture: Mixture) -> list[Text]:
        """So many requests and other short texts, of similar length."""
        many = sorted((self.text(random, mixture) for _ in range(SORTED * count)), key=lambda text: len(text.text))
        start = random.randrange(SORTED) * count
        chosen = many[start : start + count]
        fitting = max(8, count * LETTERS // max(LETTERS, len(chosen[-1].text)))
        return random.sample(chosen, min(count, fitting))

    def caption(self, random: Random) -> tuple[Text, Int[Tensor, " holes"]]:
        """The description of an architecture of this corpus, and its code."""
        while True:
            texts, codes = self.captions(1, random)
            if texts:
                return texts[0], codes[0]

    def captions(self, count: int, random: Random) -> tuple[list[Text], Codes]:
        """Descriptions, so many or a few less, and the codes of the architectures that they describe."""
        rows = [random.randrange(len(self.facts.members)) for _ in range(count)]
        found, codes = self.decoded(self.facts.members[rows])
        return [described(one, self.facts, random) for one in found], codes

    def of_requests(self, texts: list[Text], random: Random) -> tuple[Architectures, Truth]:
        """Architectures of which requests are true, neighbours of which they are false, and others.

        Returns:
            Them, and of which of them each text is true.
        """
        facts, asked, rows = self.facts, [], []
        generator = torch.Generator().manual_seed(random.getrandbits(60))
        for text in texts:
            if text.kind == "request" and text.request:
                met = facts.holds(text.request, facts.table).nonzero().flatten()
                if len(met):
                    asked.append(text)
                    rows.append(met[random.randrange(len(met))])
        chosen = [self._others(generator)]
        if asked:
            right = facts.members[torch.stack(rows)]
            near = self._near(right, 6, generator)
            values, start = facts.of(torch.cat(near)), 0
            for text, others in zip(asked, near, strict=True):
                part = slice(start, start := start + len(others))
                wrong = others[~facts.holds(text.request, {name: value[part] for name, value in values.items()})]
                chosen.append((wrong if len(wrong) else others)[:1])
            chosen.append(right)
        found, codes = self.decoded(torch.cat(chosen).unique(dim=0))
        values = facts.of(codes)
        true = torch.zeros(len(texts), len(codes), dtype=torch.bool)
        for index, text in enumerate(texts):
            if text.kind == "request" and text.request:
                true[index] = facts.holds(text.request, values)
        return found, true

    def of_captions(self, described: Codes, random: Random) -> tuple[Architectures, Truth]:
        """Those described, for each some neighbours and some with the same choices in other places, and others.

        Returns:
            Them, and of which of them each caption is true.
        """
        generator = torch.Generator().manual_seed(random.getrandbits(60))
        changed = self._near(described, 4, generator)
        moved = self._near(described, 4, generator, swapped)
        found, codes = self.decoded(torch.cat([self._others(generator), described, *changed, *moved]).unique(dim=0))
        return found, (described[:, None] == codes).all(-1)

    def edited(self, random: Random) -> tuple[Architectures, Architectures]:
        """Architectures of this corpus, and each of them with one change, to one of training where they are."""
        generator = torch.Generator().manual_seed(random.getrandbits(60))
        first, codes = self.decoded(self._others(generator))
        near = self._near(codes, 4, generator)
        first = [one for one, others in zip(first, near, strict=True) if len(others)]
        second = self.facts.space.decode_all(torch.cat([others[:1] for others in near]))
        allowed = [self.held_out != "without" or not is_held_out(one.hash, UNSEEN) for one in second]
        kept = [pair for pair, here in zip(zip(first, second, strict=True), allowed, strict=True) if here]
        return [one for one, _ in kept], [other for _, other in kept]

    def _near(
        self,
        codes: Codes,
        count: int,
        generator: torch.Generator,
        changes: Callable[[SearchSpace, Int[Tensor, "one holes"]], Codes] = neighbours,
    ) -> list[Codes]:
        """For each of some architectures at most so many members one change away, in random order."""
        parts = []
        for row in codes:
            near = changes(self.facts.space, row[None])
            near = near[(near != row).any(-1)]
            parts.append(near[torch.randperm(len(near), generator=generator)[: 2 * count]])
        good = self.facts.space.feasible(torch.cat(parts)).split([len(part) for part in parts])
        return [part[here][:count] for part, here in zip(parts, good, strict=True)]

    def _others(self, generator: torch.Generator) -> Codes:
        return self.facts.members[torch.randint(len(self.facts.members), (OTHERS,), generator=generator)]


def swapped(space: SearchSpace, codes: Int[Tensor, "one holes"]) -> Codes:
    """A code with two of its choices exchanged, in every way that changes it."""
    holes, row = space.holes, codes[0]
    pairs = [(i, j) for i, j in combinations(range(len(holes)), 2) if holes[i].options == holes[j].options]
    first, second = torch.tensor([(i, j) for i, j in pairs if row[i] != row[j]], dtype=torch.long).view(-1, 2).T
    result = row.repeat(len(first), 1)
    places = torch.arange(len(first))
    result[places, first], result[places, second] = row[second], row[first]
    return result


@dataclass
class Lesson:
    """What one step learns from.

    Attributes:
        space: Its name.
        captions: Whether the texts describe architectures.
        texts: All texts.
        graphs: Architectures, if any are looked at.
        true: Of which of them each text is true.
        edited: Architectures and behind them what one change made of each, if clones are looked at.
    """

    space: str
    captions: bool
    texts: list[Text]
    graphs: Batch | None = None
    true: Truth | None = None
    edited: Batch | None = None


class Lessons(Dataset):
    """Every draw depends on the seed, the step and the process alone.

    Args:
        corpora: For each space its texts.
        shares: For each space its share.
        mixture: Kinds of texts.
        batch_size: Texts of a step.
        marks: For each step what its draws begin from.
    """

    def __init__(
        self, corpora: dict[str, Corpus], shares: dict[str, float], mixture: Mixture, batch_size: int, marks: list[int]
    ):
        self.corpora, self.shares, self.mixture = corpora, shares, mixture
        self.batch_size, self.marks = batch_size, marks

    def __len__(self) -> int:
        return len(self.marks)

    def __getitem__(self, index: int) -> Lesson:
        random = Random(self.marks[index])
        (space,) = random.choices([*self.shares], [*self.shares.values()])
        corpus = self.corpora[space]
        captions = random.random() < self.mixture.caption
        if captions:
            texts, described = corpus.captions(max(8, self.batch_size // 3), random)
            looking = self.mixture.looking > 0
        else:
            texts = corpus.texts(self.batch_size, random, self.mixture)
            looking = random.random() < self.mixture.looking
        if not looking:
            return Lesson(space, captions, texts)
        found, true = corpus.of_captions(described, random) if captions else corpus.of_requests(texts, random)
        lesson = Lesson(space, captions, texts, to_batch(found), true)
        if random.random() < CLONES:
            first, second = corpus.edited(random)
            lesson.edited = to_batch([*first, *second])
        return lesson


# ---- a file of it ---------------------------------------------------------------------------------------------------
def corpus(space: str, n: int = 1000, held_out: str = "without", seed: int = 0, out: str | None = None) -> None:
    """Write texts about a search space, each with what it means, as ArchBERT learns from them.

    Args:
        space: Its name.
        n: How many.
        held_out: Which phrases and architectures: `without` those that are kept from training, only those `phrases`,
            only new `pairs` of phrases, or `all`.
        seed: Seed of everything drawn.
        out: File of JSON lines, which are printed if it is absent: the text, its kind and phrases, what it means as
            predicates and as a constraint for `--where`, and the share of the members that it is true of; of a
            description its architecture too.

    Raises:
        ValueError: If the request is at fault.
    """
    check_counts(n=n)
    check_words(space)
    if held_out not in ("without", "phrases", "pairs", "all"):
        raise ValueError(f"held_out is without, phrases, pairs or all, got {held_out!r}")
    source, mixture, random = Corpus(facts_of(space), held_out), Mixture(), Random(seed)
    records = []
    for _ in tqdm(range(n), desc="texts", leave=False):
        if random.random() < mixture.caption:
            text, codes = source.caption(random)
            records.append(_record(text, source.facts) | {"arch": str(source.facts.space.decode(codes))})
        else:
            records.append(_record(source.text(random, mixture), source.facts))
    if out is not None:
        write_lines(out, records)
    else:
        print("\n".join(map(json.dumps, records)))


def _record(text: Text, facts: Facts) -> dict[str, Any]:
    """A text as JSON values."""
    record = {"text": text.text, "space": facts.space.name, "kind": text.kind, "phrases": sorted(text.phrases)}
    record["predicates"] = [" or ".join(map(str, clause)) for clause in text.request]
    if text.kind in ("request", "caption", "whether"):
        true = facts.holds(text.request, facts.table).double().mean().item()
        record |= {"where": facts.constraint(text.request), "true of": round(true, 6)}
    return record
