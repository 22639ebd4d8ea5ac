"""Understanding: what a text asks of a space, how sure that is, and why it is refused where it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch_geometric.data import Batch

from archgen.constraint import Infeasible
from archgen.graph import Architecture
from archgen.reading import HOW, KINDS, UNKNOWN, UNRELATED, WHETHER
from archgen.text import ArchBERT, Reading, Tokens
from archgen.vocabulary import Clause, Facts, Predicate, Request, countable, facts_of

LONGEST_TEXT = 2_000  # letters
UNSURE = 0.6  # below this confidence a predicate is said to be unsure
LIKELY = 0.05  # readings that are less probable have no say in whether a text contradicts itself
PARTS = re.compile(r"[,;.!?](?=\s)|\n|\bbut\b", re.IGNORECASE)  # between which a text is read once more, part by part
ALSO = 0.2  # a predicate of other readings that is this probable is met too, where that is possible
STYLE = 0.02  # weight of the fine score beside a reading's probability
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
    """

    text: str
    request: Request
    confidences: tuple[float, ...]
    readings: tuple[Reading, ...]
    facts: Facts = field(repr=False)
    model: ArchBERT = field(repr=False)
    tokens: Tokens = field(repr=False)

    @property
    def where(self) -> str:
        """The predicates as a constraint."""
        return self.facts.constraint(self.request)

    @property
    def unsure(self) -> list[str]:
        """Predicates that may have been misunderstood."""
        return [written(c) for c, sure in zip(self.request, self.confidences, strict=False) if sure < UNSURE]

    def record(self) -> dict[str, object]:
        """What was understood, as JSON values."""
        predicates = [
            {"predicate": written(clause), "confidence": round(sure, 3)}
            for clause, sure in zip(self.request, self.confidences, strict=False)
        ]
        return {"text": self.text, "space": self.facts.space.name, "understood": predicates, "where": self.where}

    @torch.inference_mode()
    def score(self, codes: Int[Tensor, "batch holes"], graphs: Graphs | None = None) -> Float[Tensor, " batch"]:
        """How probably each architecture is what was meant: over all readings, and by the fine score for style.

        Args:
            codes: Complete encodings.
            graphs: What `encoded` makes of them, if that is known.
        """
        values = self.facts.of(codes)
        total = torch.zeros(len(codes), dtype=torch.float64)
        for reading in self.readings:
            total += reading.probability * self.facts.holds(reading.request, values)
        odds = fine_scores(self.model, self.tokens, graphs or encoded(self.model, self.facts, codes))
        return total + STYLE * odds.sigmoid().double()


@torch.inference_mode()
def encoded(model: ArchBERT, facts: Facts, codes: Int[Tensor, "batch holes"]) -> Graphs:
    """Nodes of architectures as the encoder sees them, and where they are."""
    graphs = Batch.from_data_list([one.to_pyg() for one in facts.space.decode_all(codes)])
    return model.encode_graphs(graphs.to(model.device), model.label_rows(facts.space))[:2]


@torch.inference_mode()
def fine_scores(model: ArchBERT, tokens: Tokens, graphs: Graphs) -> Float[Tensor, " archs"]:
    """Log-odds that a text is true of each architecture."""
    (memory, mask), (nodes, there), count = tokens, graphs, len(graphs[0])
    return model.match(nodes, there, memory.expand(count, -1, -1), mask.expand(count, -1))[0].cpu()


def written(clause: Sequence[Predicate]) -> str:
    """A clause as a person would write it."""
    return " or ".join(map(str, clause))


def answered(question: str, architecture: Architecture, model: ArchBERT | None = None) -> float | bool | None:
    """The answer to a question about an architecture, counted: how many, how much, or whether; None if it is none.

    Args:
        question: Such as "how many 3x3 convolutions does it have?" or "does it have a skip connection?"
        architecture: What it is about.
        model: The reader; the shipped one if absent.
    """
    space = architecture.space
    facts, model = facts_of(space.name), model or text_model()
    values = facts.of(space.encode(architecture)[None])
    ((readings, _),) = model.read([question], space.name)
    first = readings[0]
    if first.kind == HOW:
        return sum(values[name].item() for name in facts.expand(first.request[0][0].left))
    return bool(facts.holds(first.request, values)) if first.kind == WHETHER else None


@cache
def text_model() -> ArchBERT:
    """The text model that is shipped, loaded once."""
    return ArchBERT.load("archbert")


def understand(texts: Sequence[str], space: str, model: ArchBERT | None = None) -> list[Understanding | Refused]:
    """What each text asks of a space, or why it is refused.

    Args:
        texts: What users typed.
        space: Name of the search space.
        model: The reader; the shipped one if absent.

    Raises:
        ValueError: If there are no words for the space.
    """
    facts, model = facts_of(space), model or text_model()
    result: list[Understanding | Refused] = [_unreadable(text) for text in texts]
    kept = [index for index, reason in enumerate(result) if reason is None]
    parts = {index: [part for part in PARTS.split(texts[index]) if part.strip()] for index in kept}
    parts = {index: split if len(split) > 1 else [] for index, split in parts.items()}
    asked = [text for index in kept for text in (texts[index], *parts[index])]
    heard = iter(model.read(asked, space))
    for index in kept:
        readings, tokens = next(heard)
        of_parts = [next(heard)[0] for _ in parts[index]]
        result[index] = _decided(texts[index], readings, of_parts, facts, model, tokens)
    return result


def _unreadable(text: str) -> Refused | None:
    if not any(letter.isalnum() for letter in text):
        return Refused("the text says nothing; ask for an architecture, such as 'a small network without pooling'")
    if len(text) > LONGEST_TEXT:
        return Refused(f"a request has at most {LONGEST_TEXT:,} characters, got {len(text):,}")
    return None


def _decided(
    text: str, readings: list[Reading], parts: list[list[Reading]], facts: Facts, model: ArchBERT, tokens: Tokens
) -> Understanding | Refused:
    """The most probable reading that something meets, or a reason: then what nothing meets is the more probable."""
    chance = dict.fromkeys((*KINDS, "request"), 0.0)
    for reading in readings:
        chance[reading.kind] += reading.probability
    kind = max(chance, key=chance.__getitem__)
    if kind in (HOW, WHETHER):
        return Refused("this is a question about an architecture: archgen describe ARCH --question answers it")
    if not readings or kind == UNRELATED:
        return Refused("this is no request for an architecture; say for example 'a small network without pooling'")
    if kind == UNKNOWN:
        known = ", ".join(NAMES[name] for name in facts.attributes)
        return Refused(f"{facts.space.name} has no word for a part of this; it knows {known}")
    requests = [reading for reading in readings if reading.kind == "request"]
    requests += _joined(parts, sum(reading.probability for reading in requests))
    requests.sort(key=lambda reading: -reading.probability)
    considered = [reading for reading in requests if reading.probability >= LIKELY] or requests[:1]
    reasons = [_impossible(reading.request, facts) for reading in considered]
    met = [reading for reading, reason in zip(considered, reasons, strict=True) if reason is None]
    believed = sum(reading.probability for reading in considered)
    if not met or 2 * sum(reading.probability for reading in met) < believed:
        return Refused(next(reason for reason in reasons if reason is not None))
    chances = _chances(requests)
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
        if clause not in result and chances[clause] >= ALSO and facts.holds(more, facts.table).any():
            result = more
    return result


def _joined(parts: list[list[Reading]], chance: float) -> list[Reading]:
    """What the parts of a text say together, as one more reading; no reading if they say nothing.

    Args:
        parts: Readings of each part.
        chance: Of all readings of the whole text; that of the new one is as large, if the parts are sure.
    """
    said = [readings[0] for readings in parts if readings and readings[0].kind == "request"]
    request = tuple(dict.fromkeys(clause for reading in said for clause in reading.request))
    return [Reading("request", request, chance * prod(reading.probability for reading in said))] if request else []


def _impossible(request: Request, facts: Facts) -> str | None:
    """Why no member of the space meets a request; None if one does."""
    if facts.holds(request, facts.table).any():
        return None
    said = "; ".join(map(written, countable(request)))
    reason = f"no member of {facts.space.name} meets all of: {said}"
    if facts.listed:
        return f"{reason}{_conflict(request, facts)}"
    try:
        facts.parsed(request).witness(torch.Generator().manual_seed(0))
    except Infeasible as error:
        return f"{reason} ({str(error).rpartition('; ')[2]})"
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
