"""Understanding: what a text asks of a space, how sure that is, and why it is refused where it is."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from archgen.constraint import Infeasible
from archgen.graph import Architecture, to_batch
from archgen.numerals import find_numbers
from archgen.reading import HOW, KINDS, NUMBERS, QUESTION, UNKNOWN, UNRELATED, WHETHER, normalized
from archgen.text import MOST_TOKENS, ArchBERT, Reading, Tokens
from archgen.vocabulary import MILLIONS, NO_PATH, Clause, Facts, Predicate, Request, countable, facts_of

LONGEST_TEXT = 2_000  # letters
UNSURE = 0.6  # below this confidence a predicate is said to be unsure
TELLING = 10  # smaller numbers stand in names and idioms: a 3x3, one of the six edges
LIKELY = 0.05  # readings that are less probable have no say in whether a text contradicts itself
# Of the texts that the reader learned from a fifth contradict themselves, many by chance, and another fifth are not
# for it; of what people type far fewer. So its odds of both are lowered (chosen on training/dev_queries.jsonl).
CONTRARY, STRANGE = 0.3, 0.5
PARTS = re.compile(r"[,;.!?](?=\s)(?!\s+n?or\b)|\n|\bbut\b", re.IGNORECASE)  # between which it is read part by part
MOST_PARTS = 8  # of a text with more, which is a description, none is read alone
ALSO = 0.2  # a predicate of other readings that is this probable is met too, where that is possible
PARTLY, STYLE = 0.25, 0.01  # weights of the share of the clauses that is met, and of the fine score
ALIKE = 0.1  # weight of the likeness to a description: unsure readings do not override it
NAMES = {
    "conv3x3": "3x3 convolutions", "conv1x1": "1x1 convolutions", "pool": "pooling", "skip": "skip connections",
    "none": "empty edges", "edges": "edges", "se": "squeeze-excitation", "kernel3": "3x3 kernels",
    "kernel5": "5x5 kernels", "expand1": "expansion 1", "expand4": "expansion 4", "expand6": "expansion 6",
    "layers1": "stages of one layer", "layers2": "stages of two layers", "layers3": "stages of three layers",
    "layers4": "stages of four layers", "layers": "layers", "depth": "depth", "params": "parameters",
    "flops": "multiply-adds",
}  # fmt: skip

Graphs = tuple[Float[Tensor, "archs most width"], Bool[Tensor, "archs most"]]


class Refused(ValueError):
    """A text asks for nothing that the space could give; the message says why."""


@dataclass(frozen=True)
class Understanding:
    """What a text was understood to ask for.

    Attributes:
        text: What was typed.
        request: The predicates, all of which hold of every result.
        confidences: Of each clause of the request: how probable it is that this was meant.
        readings: All requests that were considered, the most probable first.
        facts: Of the space.
        model: The reader, whose fine score orders what meets the predicates.
        tokens: The text as the encoder sees it, and where its tokens are.
        corrected: Words that were taken for others, as slips of the keyboard.
    """

    text: str
    request: Request
    confidences: tuple[float, ...]
    readings: tuple[Reading, ...]
    facts: Facts = field(repr=False)
    model: ArchBERT = field(repr=False)
    tokens: Tokens = field(repr=False)
    corrected: Mapping[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The predicates as a constraint."""
        return self.facts.constraint(self.request)

    @property
    def unsure(self) -> list[str]:
        """Predicates that may have been misunderstood."""
        return [written(c) for c, sure in zip(self.request, self.confidences, strict=False) if sure < UNSURE]

    @property
    def unused(self) -> list[str]:
        """Numbers of the text, from `TELLING` on, that no predicate asks for."""
        asked = {one.right for clause in self.request for one in clause if isinstance(one.right, float)}
        text = normalized(self.text)
        numbers = [one for one in find_numbers(text) if one.value >= TELLING]
        return [text[one.start : one.end] for one in numbers if not asked & {one.value, one.in_millions()}]

    def record(self) -> dict[str, object]:
        """What was understood, as JSON values."""
        predicates = [
            {"predicate": written(clause), "confidence": round(sure, 3)}
            for clause, sure in zip(self.request, self.confidences, strict=False)
        ]
        result = {"text": self.text, "space": self.facts.space.name, "understood": predicates, "where": self.where}
        noted = {"corrected": dict(self.corrected), "unused": self.unused}
        return result | {name: value for name, value in noted.items() if value}

    def say(self) -> None:
        """Print what was understood, and how it can be corrected; what is unsure to standard error."""
        if self.corrected:
            print(f"archgen: {_changed(self.corrected)}", file=sys.stderr)
        if len(find_numbers(normalized(self.text))) > NUMBERS:
            print(f"archgen: of the numbers only the first {NUMBERS} were read", file=sys.stderr)
        if unused := self.unused:
            print(f"archgen: nothing was made of {', '.join(unused)}", file=sys.stderr)
        pairs = zip(self.request, self.confidences, strict=True)
        parts = [f"{written(clause)} ({100 * sure:.0f} %)" for clause, sure in pairs]
        print(f"understood: {'; '.join(parts) or 'any architecture'}")
        print(f'as a constraint: --where "{self.where}"')
        if self.unsure:
            print(f"archgen: unsure of {'; '.join(self.unsure)}", file=sys.stderr)

    @torch.inference_mode()
    def score(self, codes: Int[Tensor, "batch holes"], graphs: Graphs | None = None) -> Float[Tensor, " batch"]:
        """How probably each architecture is what was meant, over all readings.

        Among those that meet as much, the fine score decides, which knows what predicates cannot say.

        Args:
            codes: Complete encodings.
            graphs: What `encoded` makes of them, if that is known.
        """
        odds = fine_scores(self.model, self.tokens, graphs or encoded(self.model, self.facts, codes))
        return self.expected(self.facts.of(codes)) + STYLE * odds.double().sigmoid()

    def expected(self, values: Mapping[str, Float[Tensor, " batch"]]) -> Float[Tensor, " batch"]:
        """How probably architectures meet all that was meant and, with less weight, the share that they meet.

        Args:
            values: Their attributes, as `Facts.of` gives them.
        """
        total = torch.zeros(len(values["depth"]), dtype=torch.float64)
        for reading in self.readings:
            held = self.facts.holds(reading.request, values)
            met = self.facts.met(reading.request, values)
            total += reading.probability * (held + PARTLY * met.sum(0) / max(1, len(met)))
        return total


@torch.inference_mode()
def encoded(model: ArchBERT, facts: Facts, codes: Int[Tensor, "batch holes"]) -> Graphs:
    """Nodes of architectures as the encoder sees them, and where they are."""
    graphs = to_batch(facts.space.decode_all(codes))
    return model.encode_graphs(graphs.to(model.device), model.label_rows(facts.space))[:2]


@torch.inference_mode()
def fine_scores(model: ArchBERT, tokens: Tokens, graphs: Graphs) -> Float[Tensor, " archs"]:
    """Log-odds that a text is true of each architecture."""
    return model.match(*graphs, *tokens)[0].cpu()


@torch.inference_mode()
def likeness(
    model: ArchBERT, facts: Facts, tokens: Tokens, codes: Int[Tensor, "batch holes"]
) -> Float[Tensor, " batch"]:
    """How well a text that describes architectures tells their operations and wiring: log-odds and log-probability."""
    graphs = to_batch(facts.space.decode_all(codes)).to(model.device)
    rows = model.label_rows(facts.space)
    nodes, there, _ = model.encode_graphs(graphs, rows)
    return (model.match(nodes, there, *tokens)[0] + model.retold(graphs, rows, *tokens)).double().cpu()


def _changed(corrected: Mapping[str, str]) -> str:
    """What was taken for a slip of the keyboard, in words."""
    return "read " + ", ".join(f'"{word}" as "{other}"' for word, other in corrected.items())


def written(clause: Sequence[Predicate]) -> str:
    """A clause as a person would write it."""
    return " or ".join(map(str, clause))


@dataclass(frozen=True)
class Question:
    """What a question about an architecture was read as.

    Attributes:
        kind: How much, or whether.
        request: Of what.
        facts: Of the space.
    """

    kind: str
    request: Request
    facts: Facts = field(repr=False)

    def __str__(self) -> str:
        """In words."""
        if self.kind == HOW:
            return f"how much of {' + '.join(self.request[0][0].left)}"
        return f"whether {'; '.join(map(written, self.request))}"

    def answer(self, architecture: Architecture) -> Answer:
        """What is counted of an architecture."""
        values = self.facts.of(self.facts.space.encode(architecture)[None])
        if self.kind == WHETHER:
            return Answer(bool(self.facts.met(self.request, values).all()))
        names = self.facts.expand(self.request[0][0].left)
        return Answer(sum(values[name].item() for name in names), "million" * (names[0] in MILLIONS))


@dataclass(frozen=True)
class Answer:
    """The answer to a question about an architecture.

    Attributes:
        value: A number, or whether something is so.
        unit: Of the number.
    """

    value: float | bool
    unit: str = ""

    def __str__(self) -> str:
        """In words."""
        if isinstance(self.value, bool):
            return "yes" if self.value else "no"
        if self.value < 0:  # the depth of what is not connected
            return NO_PATH
        return f"{self.value:.6g} {self.unit}".rstrip()


def question_of(text: str, space: str, model: ArchBERT | None = None) -> Question:
    """What a question asks of an architecture.

    Args:
        text: Such as "how many 3x3 convolutions does it have?"
        space: Name of the search space.
        model: The reader; the shipped one if absent.

    Raises:
        Refused: If it is no question, or about what is measured.
    """
    facts, model = facts_of(space), model or text_model()
    if reason := unreadable(text, space, model):
        raise reason
    text, _ = model.speller.corrected(text)
    ((readings, _),) = model.read([text], space)
    kind = _most_probable_kind(readings)
    if kind == "request":  # in one word, such as "depth?"
        ((readings, _),) = model.read([text], space, QUESTION)
        kind = _most_probable_kind(readings)
    if kind not in (HOW, WHETHER):
        raise Refused("this is no question about an architecture; ask how many, how much, or whether it has something")
    request = next(reading.request for reading in readings if reading.kind == kind)
    if len(countable(request)) < len(request):
        raise Refused("what is asked is measured, not counted; the column predicted of archgen sample estimates it")
    return Question(kind, request, facts)


@cache
def text_model() -> ArchBERT:
    """The text model that is shipped, loaded once."""
    return ArchBERT.load("archbert")


def understand(texts: Sequence[str], space: str, model: ArchBERT | None = None) -> list[Understanding | Refused]:
    """What each text asks of a space, or why it is refused; what is not read whole is refused.

    Args:
        texts: What users typed.
        space: Name of the search space.
        model: The reader; the shipped one if absent.

    Raises:
        ValueError: If there are no words for the space.
    """
    facts, model = facts_of(space), model or text_model()
    result: list[Understanding | Refused] = [unreadable(text, space, model) for text in texts]
    spelled = {index: model.speller.corrected(texts[index]) for index, reason in enumerate(result) if reason is None}
    parts = {index: [part for part in PARTS.split(text) if part.strip()] for index, (text, _) in spelled.items()}
    parts = {index: split if 1 < len(split) <= MOST_PARTS else [] for index, split in parts.items()}
    heard = iter(model.read([each for index, (text, _) in spelled.items() for each in (text, *parts[index])], space))
    for index, (_, corrected) in spelled.items():
        readings, tokens = next(heard)
        of_parts = [next(heard)[0] for _ in parts[index]]
        one = _decided(texts[index], readings, of_parts, facts, model, tokens)
        if isinstance(one, Understanding):
            result[index] = replace(one, corrected=corrected)
        else:
            result[index] = Refused(f"{one} ({_changed(corrected)})") if corrected else one
    return result


def unreadable(text: str, space: str, model: ArchBERT) -> Refused | None:
    """Why a text is not read at all, if it is not."""
    if not any(letter.isalnum() for letter in text):
        return Refused("the text says nothing; ask for an architecture, such as 'a small network without pooling'")
    if len(text) > LONGEST_TEXT:
        return Refused(f"a text has at most {LONGEST_TEXT:,} characters, got {len(text):,}")
    if (length := model.length(text, space)) > MOST_TOKENS:
        return Refused(f"a text has at most {MOST_TOKENS} words, numbers and marks, got {length}")
    return None


def _decided(
    text: str, readings: list[Reading], parts: list[list[Reading]], facts: Facts, model: ArchBERT, tokens: Tokens
) -> Understanding | Refused:
    """The most probable reading that something meets, or a reason: then what nothing meets is far more probable."""
    if not readings:
        return Refused("this says more than can be read at once; ask for less, or use archgen sample --where")
    kind = _most_probable_kind(readings)
    if kind in (HOW, WHETHER):
        return Refused("this is a question about an architecture: archgen describe ARCH --question answers it")
    if kind == UNRELATED:
        return Refused("this is no request for an architecture; say for example 'a small network without pooling'")
    if kind == UNKNOWN:
        known = ", ".join(NAMES[name] for name in facts.attributes)
        return Refused(f"{facts.space.name} has no word for a part of this; it knows {known}")
    whole = [reading for reading in readings if reading.kind == "request"]
    requests = _with_joined(whole, parts)
    considered = [reading for reading in requests if reading.probability >= LIKELY] or requests[:1]
    reasons = [_impossible(reading.request, facts) for reading in considered]
    met = [reading for reading, reason in zip(considered, reasons, strict=True) if reason is None]
    believed = sum(reading.probability for reading in considered)
    possible = sum(reading.probability for reading in met)
    if not met or possible < CONTRARY * (believed - possible):
        return Refused(next(reason for reason in reasons if reason is not None))
    sure = sum(reading.probability for reading in whole) / sum(reading.probability for reading in readings)
    chances = {clause: chance * sure for clause, chance in _chances(requests).items()}
    request = _with_likely(met[0].request, chances, facts)
    confidences = tuple(chances[clause] for clause in request)
    return Understanding(text, request, confidences, tuple(requests), facts, model, tokens)


def _chances(readings: Sequence[Reading]) -> dict[Clause, float]:
    """For each clause the share of the readings, by their probability, that hold it."""
    total = sum(reading.probability for reading in readings)
    chances: dict[Clause, float] = {}
    for reading in readings:
        for clause in dict.fromkeys(reading.request):
            chances[clause] = chances.get(clause, 0.0) + reading.probability / total
    return chances


def _with_likely(request: Request, chances: dict[Clause, float], facts: Facts) -> Request:
    """A request and what less probable readings add to it: who meets more misses less of what was meant."""
    result = tuple(dict.fromkeys(request))
    for clause in sorted(chances, key=chances.__getitem__, reverse=True):
        more = (*result, clause)
        narrows = any(set(clause) < set(other) for other in result)  # one alternative of what is there
        if clause in result or narrows or chances[clause] < ALSO:
            continue
        if facts.holds(more, facts.table).any():
            result = more
    return result


def _with_joined(requests: list[Reading], parts: list[list[Reading]]) -> list[Reading]:
    """Readings of a whole text and, as one more, what its parts say together; the most probable first.

    Args:
        requests: Readings of the whole.
        parts: Readings of each part. Together they are as probable as the best of the whole if they are sure, at most.
    """
    said = [readings[0] for readings in parts if readings and readings[0].kind == "request"]
    request = tuple(dict.fromkeys(clause for reading in said for clause in reading.request))
    best = max((reading.probability for reading in requests), default=0.0)
    sure = best * prod(reading.probability for reading in said)
    joined = [Reading("request", request, sure)] if request else []
    merged: dict[frozenset[Clause], Reading] = {}
    for reading in (*requests, *joined):
        first = merged.setdefault(frozenset(reading.request), replace(reading, probability=0.0))
        merged[frozenset(reading.request)] = replace(first, probability=first.probability + reading.probability)
    return sorted(merged.values(), key=lambda reading: -reading.probability)


def _most_probable_kind(readings: Sequence[Reading]) -> str:
    """Of all readings together; unrelated where there are none.

    What is no request has one reading; requests have more than were considered, so that all the rest is theirs.
    """
    if not readings:
        return UNRELATED
    chance = dict.fromkeys(KINDS, 0.0)
    for reading in readings:
        if reading.kind in chance:
            chance[reading.kind] += reading.probability
    asked = any(reading.kind == "request" for reading in readings)
    chance["request"] = 1 - sum(chance.values()) if asked else 0.0
    chance |= {kind: STRANGE * chance[kind] for kind in (UNKNOWN, UNRELATED)}
    return max(chance, key=chance.__getitem__)


def _impossible(request: Request, facts: Facts) -> str | None:
    """Why no member of the space meets a request, or why none can be looked for; None if one does."""
    try:
        constraint = facts.parsed(request)
    except ValueError as error:  # a number that is too large
        return str(error)
    if facts.holds(request, facts.table).any():
        return None
    said = "; ".join(map(written, countable(request)))
    if facts.listed:
        return f"no member of {facts.space.name} meets all of: {said}{_conflict(request, facts)}"
    try:
        constraint.witness(torch.Generator().manual_seed(0))
    except Infeasible as error:
        known = "meets" if error.proven else "was found that meets"
        return f"no member of {facts.space.name} {known} all of: {said} ({str(error).rpartition('; ')[2]})"
    return None


def _conflict(request: Request, facts: Facts) -> str:
    """Which part of a request cannot be met alone, or which two exclude each other."""
    clauses = countable(request)
    for clause in clauses:
        if not facts.holds((clause,), facts.table).any():
            return f"; {written(clause)} is not possible here"
    for index, one in enumerate(clauses):
        for other in clauses[index + 1 :]:
            if not facts.holds((one, other), facts.table).any():
                return f"; {written(one)} and {written(other)} exclude each other"
    return ""
