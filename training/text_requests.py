"""Requests and questions: how well they are read, met and refused, with controls beside them."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from archgen.ask import answer, answers
from archgen.caption import Text, Writer
from archgen.constraint import Constraint
from archgen.guidance import Telling
from archgen.pipeline import ArchitecturePipeline
from archgen.text import ArchBERT
from archgen.understanding import Refused, Understanding, encoded, fine_scores, question_of, understand
from archgen.vocabulary import COMPARE, Facts, Predicate, countable, facts_of

ATTRIBUTES = {  # as the queries call them
    "num_conv3x3": "conv3x3", "num_conv1x1": "conv1x1", "num_avgpool": "pool", "num_skip": "skip",
    "num_none": "none", "depth": "depth", "params_m": "params", "flops_m": "flops",
}  # fmt: skip
REFUSALS = ("UNSAT", "OOS")
METHODS = {  # of answering a request
    "ask": "what users get: reader, generator (which hears the words where it was trained to), fine score",
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
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # in rows of a keyboard
SLIPPING = 4  # letters of a word that may be spoiled


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
    shuffled: bool = False, weight: float = 1.0, generator: str | None = None, slips: int = 0,
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
        slips: Words of each that a slip of the keyboard spoils.
    """
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}, got {method!r}")
    asked = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    random = Random(seed)
    asked = [query | {"query": spoiled(query["query"], slips, random)} for query in asked]
    found: dict[str, Any] = {}
    given = None if generator is None else ArchitecturePipeline.load(generator)
    for name in dict.fromkeys(map(space_of, asked)) if given is None else [given.space.name]:
        pipeline = given or ArchitecturePipeline.load(name)
        pipeline.set_progress_bar_config(disable=True)
        mine = [query for query in asked if space_of(query) == name]
        found[name] = _graded(model, pipeline, mine, facts_of(name), n, seed, show, method, shuffled, weight)
    return found


def spoiled(text: str, slips: int, random: Random) -> str:
    """A text of which some words have a slip: a letter left out, doubled, wrong (a key beside) or swapped.

    Not by the slips of the corpus, which the reader learned from.
    """
    words = text.split(" ")
    long = [index for index, word in enumerate(words) if word.isascii() and word.isalpha() and len(word) >= SLIPPING]
    for index in random.sample(long, min(slips, len(long))):
        word, at = words[index], random.randrange(1, len(words[index]))
        row = next(row for row in KEYS if word[at].lower() in row)
        beside = row[(row.index(word[at].lower()) + random.choice([-1, 1])) % len(row)]
        kinds = [word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:], word[:at] + beside + word[at + 1 :]]
        if at + 1 < len(word):
            kinds.append(word[:at] + word[at + 1] + word[at] + word[at + 2 :])
        words[index] = random.choice(kinds)
    return " ".join(words)


def slips(model: ArchBERT, file: str = "tests/queries.jsonl", n: int = 10, seed: int = 0) -> dict[str, Any]:
    """Satisfaction by graded requests with no, one and two slips of the keyboard, by reader and list of members."""
    return {
        f"{space}, {count}": {name: row[name] for name in (f"satisfaction at {n}", "refused rightly") if name in row}
        for count in (0, 1, 2)
        for space, row in queries(model, file, n, seed, method="lookup", slips=count).items()
    }


def _graded(
    model: ArchBERT, pipeline: ArchitecturePipeline, asked: list[dict[str, Any]], facts: Facts, n: int, seed: int,
    show: bool, method: str, shuffled: bool, weight: float,
) -> dict[str, Any]:  # fmt: skip
    graders = [grader(query) for query in asked]
    texts = [query["query"] for query in asked]
    if shuffled:
        order = Random(seed).sample(range(len(texts)), len(texts))
        others = dict(zip(order, order[1:] + order[:1], strict=True))  # none is its own
        texts = [texts[others[index]] for index in range(len(texts))]
    readings = [None] * len(texts) if method in READERLESS else understand(texts, facts.space.name, model)
    given = _answers(model, pipeline, texts, readings, facts, n, seed, method, weight)
    rows, everywhere = [], [None if met is None else met(facts.members).double() for met in graders]
    for query, met, all_met, codes, reading in zip(asked, graders, everywhere, given, readings, strict=True):
        row = {"query": query["query"], "refused": codes is None, "answerable": met is not None}
        if met is not None:
            good = met(codes).double() if codes is not None and len(codes) else torch.zeros(1)
            row |= {
                "at 1": good[0].item(),
                "at n": good.mean().item(),
                "base": all_met.mean().item(),
                "distinct": 0 if codes is None else len(codes.unique(dim=0)),
            }
            if codes is not None and len(codes) > 1:
                row["apart"] = _apart(codes)
        rows.append(row)
        if show and (row["refused"] == row["answerable"] or row.get("at n", 1) < 1):
            said = reading
            if isinstance(reading, Understanding):
                said = "; ".join(map(str, reading.record()["understood"]))
            print(f"- {query['query']!r}\n    asks {query['predicates']}\n    got  {said}  {row.get('at n')}")
    return _summary(rows, [met for met in everywhere if met is not None], n)


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


def _summary(rows: list[dict[str, Any]], everywhere: list[Tensor], n: int) -> dict[str, Any]:
    can = [row for row in rows if row["answerable"]]
    cannot = [row for row in rows if not row["answerable"]]
    result = {"answerable": len(can), "to be refused": len(cannot)}
    if can:
        base = mean(row["base"] for row in can)
        lift = mean((row["at n"] - row["base"]) / (1 - row["base"]) for row in can)
        result |= {
            "satisfaction at 1": mean(row["at 1"] for row in can),
            f"satisfaction at {n}": mean(row["at n"] for row in can),
            "lift": lift,
            "false refusals": mean(row["refused"] for row in can),
            "distinct": mean(row["distinct"] for row in can),
            "random": base,
            "best constant list": constant(everywhere, n),
        }
        if apart := [row["apart"] for row in can if "apart" in row]:  # of answers of two architectures or more
            result["apart"] = mean(apart)
    if cannot:
        result["refused rightly"] = mean(row["refused"] for row in cannot)
    return result


def _apart(codes: Tensor) -> float:
    """Mean share of the choices in which two of some architectures differ."""
    differ = (codes[:, None] != codes).double().mean(-1).sum()
    return (differ / (len(codes) * (len(codes) - 1))).item()


def constant(everywhere: list[Tensor], n: int) -> float:
    """Satisfaction of the best list that is given to every request alike.

    Args:
        everywhere: For each request which members satisfy it.
        n: Length of the list.
    """
    return torch.stack(everywhere).mean(0).topk(n).values.mean().item()


def mean(values: Any) -> float:
    """Of numbers or truth values, to four places."""
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
                "unknown": mean(refused[: n // 4]),
                "unrelated": mean(refused[n // 4 :]),
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
        "read exactly": mean(same),
        "satisfaction": mean(inside),
        "false refusals": mean(refused),
        "contradictions refused": mean(right_refusals) if right_refusals else -1.0,
        "contradictions": len(right_refusals),
    }


# ---- questions ------------------------------------------------------------------------------------------------------
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
        found |= {f"{name}, {kind}": mean(values) for kind, values in right.items() if values}
    return found
