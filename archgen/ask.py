"""Text to architectures and back: `archgen ask`, `archgen describe` and `archgen find`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from archgen.checks import check_counts
from archgen.constraint import Infeasible
from archgen.describe import describe as caption
from archgen.pipeline import ArchitectureOutput, ArchitecturePipeline
from archgen.show import draw_all, print_table, write_lines
from archgen.space import SearchSpace, load_space, read_architectures
from archgen.text import ArchBERT
from archgen.understanding import (
    ALIKE,
    Question,
    Refused,
    Understanding,
    encoded,
    likeness,
    question_of,
    text_model,
    understand,
    unreadable,
)
from archgen.vocabulary import facts_of, wished

POOL = 4096  # architectures that are drawn at once for many texts
MANY = 8  # texts for which that is worth while
CANDIDATES = 4  # as many as wanted are looked at closely
FEW = 20  # as many, of members that a large draw holds fewer of than are wanted
CLOSE = 200  # architectures, by their embeddings, that `find` looks at closely


def ask(
    text: str,
    space: str = "nasbench201",
    n: int = 10,
    seed: int = 0,
    out: str | None = None,
    draw: str | None = None,
) -> None:
    """Ask for architectures in words.

    What was understood is said first, as predicates that every result meets; correct it with `archgen sample --where`.

    Args:
        text: Such as "a small, residual network without pooling that fits a phone"; - for many, one on each line of
            standard input, of which those that are refused do not stop the others.
        space: Name of a shipped checkpoint, which is that of its search space, or the folder of another.
        n: Number of architectures for each text.
        seed: Seed of the sampler.
        out: File for what was understood, or why it was refused, and the results, one JSON object a line.
        draw: Folder for a picture of each result and a sheet of all.

    Raises:
        Refused: If the text asks for nothing that the space could give.
    """
    check_counts(n=n)
    pipeline = ArchitecturePipeline.load(space)
    name = pipeline.space.name
    texts = [line for line in sys.stdin.read().splitlines() if line.strip()] if text == "-" else [text]
    if not texts:
        raise ValueError("standard input holds no text: ask one request on each line")
    understood = understand(texts, name)
    if text != "-" and isinstance(understood[0], Refused):
        if out is not None:
            write_lines(out, [_refusal(text, name, understood[0])])
        raise understood[0]
    results = iter(answers(pipeline, [one for one in understood if isinstance(one, Understanding)], n, seed))
    lines, found = [], []
    for each, one in zip(texts, understood, strict=True):
        if text == "-":
            print(f"\n{each}")
        if isinstance(one, Refused):
            lines.append(_refusal(each, name, one))
            print(f"refused: {one}")
            continue
        result = next(results)
        records = result.records(predicted=out is not None)
        lines += [one.record(), *records]
        found += result.architectures
        one.say()
        if wished(one.request) and not pipeline.accuracies:
            print(f"archgen: accuracy is not known to {space}, and left to chance", file=sys.stderr)
        print_table(records)
        if len(records) < n:
            known = "there are no more" if one.facts.listed else "no more were found"
            print(f"archgen: {len(records)} of {n}: {known}", file=sys.stderr)
    if out is not None:
        write_lines(out, lines)
    if draw is not None:
        draw_all(found, Path(draw))


def _refusal(text: str, space: str, reason: Refused) -> dict[str, str]:
    return {"text": text, "space": space, "refused": str(reason)}


def answers(
    pipeline: ArchitecturePipeline, understandings: Sequence[Understanding], n: int, seed: int = 0
) -> list[ArchitectureOutput]:
    """As `answer`, for many texts: one draw of the generator serves each of them that it holds enough for.

    Words then choose among what was drawn, and do not steer the draw. What is rarer is chosen from all members where
    they can be listed, and drawn for itself where they cannot.

    Args:
        pipeline: A generator of the space that was spoken of.
        understandings: What the texts ask for.
        n: How many for each.
        seed: Seed of the sampler.
    """
    if len(understandings) < MANY:
        return [answer(pipeline, one, n, seed) for one in understandings]
    facts, model = understandings[0].facts, understandings[0].model
    generator = torch.Generator().manual_seed(seed)
    codes = pipeline.free(POOL, generator).unique(dim=0)
    codes = codes[torch.randperm(len(codes), generator=generator)]
    codes = codes[_different(pipeline.space, codes)]
    values, (nodes, there) = facts.of(codes), encoded(model, facts, codes)
    results: dict[int, ArchitectureOutput] = {}
    best: dict[int, torch.Tensor] = {}
    for place, one in enumerate(understandings):
        met = facts.holds(one.request, values).nonzero().flatten()[: CANDIDATES * n]
        if (wished(one.request) and pipeline.accuracies) or (len(met) < n and not facts.listed):
            results[place] = answer(pipeline, one, n, seed)
        elif len(met) < n:
            best[place] = _of_all(one, n, generator)
        else:
            fit = one.score(codes[met], (nodes[met], there[met]))
            best[place] = codes[met[fit.argsort(descending=True, stable=True)[:n]]]
    if best:
        together, start = pipeline.output(torch.cat([*best.values()]), POOL), 0
        for place, chosen in best.items():
            part = together.part(start, start + len(chosen))
            results[place] = replace(part, understanding=understandings[place])
            start += len(chosen)
    return [results[place] for place in range(len(understandings))]


def _different(space: SearchSpace, codes: torch.Tensor) -> list[int]:
    """Rows of encodings of which no two are the same network."""
    return [*{one.hash: row for row, one in enumerate(space.decode_all(codes))}.values()]


def _of_all(understanding: Understanding, n: int, generator: torch.Generator) -> torch.Tensor:
    """Those that fit a text best of all members of a space that can be listed: few meet what a large draw lacks."""
    facts = understanding.facts
    met = facts.members[facts.holds(understanding.request, facts.table)]
    codes = met[torch.randperm(len(met), generator=generator)][: FEW * n]
    again = torch.ones(len(codes), dtype=torch.float64)
    again[_different(facts.space, codes)] = 0
    fit = understanding.score(codes) - 2 * again  # other encodings of the same come last
    return codes[fit.argsort(descending=True, stable=True)[:n]]


def answer(
    pipeline: ArchitecturePipeline, understanding: Understanding, n: int, seed: int = 0, text_weight: float = 1.0
) -> ArchitectureOutput:
    """The architectures that fit a text best: different networks first, then other encodings of the same.

    Args:
        pipeline: A generator of the space that was spoken of.
        understanding: What the text asks for.
        n: How many.
        seed: Seed of the sampler.
        text_weight: How much the words themselves steer the generator.
    """
    generator, facts = torch.Generator().manual_seed(seed), understanding.facts
    try:
        result = pipeline(n=n, text=understanding, text_weight=text_weight, generator=generator)
        more = facts.parsed(understanding.request).witness(generator) if len(result.codes) < n else result.codes
    except Infeasible:  # what was found when the text was read is not found from this seed
        more = facts.members[facts.holds(understanding.request, facts.table)]
        result = pipeline.output(more[:0], 0)
    if len(result.codes) < n:
        fresh = more[~(more[:, None] == result.codes).all(-1).any(-1)].unique(dim=0)[: n - len(result.codes)]
        codes = torch.cat([result.codes, fresh])
        result = replace(pipeline.output(codes, result.drawn), understanding=understanding)
    return result


def describe(arch: str, space: str | None = None, question: str | None = None) -> None:
    """Say in words what an architecture is, or answer a question about it.

    Args:
        arch: A native string, a file of JSON lines as `sample` writes, or - for standard input.
        space: Name of the search space; found out if absent.
        question: Such as "how many 3x3 convolutions does it have?" or "does it have a skip connection?"
    """
    asked: dict[str, Question] = {}
    for architecture in read_architectures(arch, None if space is None else load_space(space)):
        name = architecture.space.name
        if question is None:
            print(caption(architecture, facts_of(name)))
            continue
        if name not in asked:
            asked[name] = question_of(question, name)
            print(f"archgen: read as {asked[name]}", file=sys.stderr)
        print(asked[name].answer(architecture))


def find(text: str, among: str = "-", space: str | None = None, n: int = 10, out: str | None = None) -> None:
    """Find the architectures that a text describes best, among given ones.

    Args:
        text: A request or a description.
        among: File of JSON lines as `sample` writes; - for standard input; or random:N for so many members of a space.
        space: Name of the search space; found out if absent.
        n: How many to show.
        out: File for them, the best first, one JSON object a line.
    """
    check_counts(n=n)
    if among == "-" and sys.stdin.isatty():
        print("archgen: reading architectures from standard input; --among names a file", file=sys.stderr)
    architectures = read_architectures(among, None if space is None else load_space(space))
    spaces = {one.space.name for one in architectures}
    if len(spaces) > 1:
        raise ValueError(f"{among} holds architectures of several spaces, {', '.join(sorted(spaces))}; search one")
    own = architectures[0].space
    codes = torch.stack([own.encode(one) for one in architectures])
    if reason := unreadable(text, own.name, text_model()):
        raise reason
    (understanding,) = understand([text], own.name)
    if isinstance(understanding, Refused):
        print(f"archgen: not read as a request, ranked by likeness alone: {understanding}", file=sys.stderr)
    else:
        understanding.say()
    best = ranked(text, own.name, codes, understanding)[:n]
    result = ArchitectureOutput([architectures[index] for index in best.tolist()], codes[best], len(codes))
    if out is not None:
        write_lines(out, result.records())
    print_table(result.records())


@torch.inference_mode()
def ranked(
    text: str,
    space: str,
    codes: torch.Tensor,
    understanding: Understanding | Refused | None = None,
    vectors: torch.Tensor | None = None,
    model: ArchBERT | None = None,
) -> torch.Tensor:
    """Positions of encodings, best first: by what is read in the text, then by embeddings and the fine score.

    Args:
        text: A request or a description.
        space: Name of the search space.
        codes: Complete encodings `(archs, holes)`.
        understanding: What was read in the text, if that is known.
        vectors: Their embeddings, if they are known.
        model: The text model; the shipped one if absent.
    """
    model, facts = model or text_model(), facts_of(space)
    if understanding is None:
        (understanding,) = understand([text], space, model)
    vectors = model.embed(facts.space.decode_all(codes)) if vectors is None else vectors
    (tokens,), (embedded,) = model.hear([model.speller.corrected(text)[0]], space)
    order = (vectors @ embedded).cpu().argsort(descending=True, stable=True)
    expected = torch.zeros(len(codes), dtype=torch.float64)
    if isinstance(understanding, Understanding):
        expected = understanding.expected(facts.of(codes))
        order = order[expected[order].argsort(descending=True, stable=True)]
    close = order[:CLOSE]
    alike = likeness(model, facts, tokens, codes[close])
    fit = expected[close] + ALIKE * (alike - alike.max()).exp()
    return torch.cat([close[fit.argsort(descending=True, stable=True)], order[CLOSE:]])
