"""The figures of ArchBERT: how well requests in words are met, refused, told apart and found again.

`python training/check_text.py --part queries --file tests/queries.jsonl`

Parts: `queries` (graded requests, with controls beside them; `--method` leaves something out), `wording` (phrases that
were kept from training), `twins` (texts that differ in one word or number), `retrieval` (text to architectures and
back), `clones` (isomorphic networks against neighbours).
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from archgen.ask import answer, ranked
from archgen.caption import Text, Writer, describe
from archgen.constraint import Constraint, neighbours
from archgen.pipeline import ArchitecturePipeline
from archgen.space import load_space
from archgen.text import ArchBERT
from archgen.understand import Refused, Understanding, text_model, understand
from archgen.vocabulary import COMPARE, Facts, Predicate, facts_of

ATTRIBUTES = {  # as the queries call them
    "num_conv3x3": "conv3x3", "num_conv1x1": "conv1x1", "num_avgpool": "pool", "num_skip": "skip",
    "num_none": "none", "depth": "depth", "params_m": "params", "flops_m": "flops",
}  # fmt: skip
REFUSALS = ("UNSAT", "OOS")


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
    file: str, n: int = 10, seed: int = 0, show: bool = False, method: str = "ask", shuffled: bool = False
) -> dict[str, Any]:
    """Answer graded requests.

    Args:
        file: One JSON object a line, with `query`, `space` and `predicates`.
        n: Architectures for each.
        seed: Of the sampler.
        show: Whether to print what went wrong.
        method: `ask`; `lookup`, the reader and a list of all members; `embedding`, the nearest members; `told`, the
            generator that hears the words, without what was understood; `told ranked`, the best by the fine score of
            four times as many.
        shuffled: Whether every query is answered with another's text: a control.
    """
    asked = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    found: dict[str, Any] = {}
    for name in dict.fromkeys(map(space_of, asked)):
        mine = [query for query in asked if space_of(query) == name]
        found[name] = _graded(mine, facts_of(name), n, seed, show, method, shuffled)
    return found


def _graded(
    asked: list[dict[str, Any]], facts: Facts, n: int, seed: int, show: bool, method: str, shuffled: bool
) -> dict[str, Any]:
    graders = [grader(query) for query in asked]
    texts = [query["query"] for query in asked]
    if shuffled:
        Random(seed).shuffle(texts)
    readings = understand(texts, facts.space.name)
    answers = _answers(texts, readings, facts, n, seed, method)
    rows = []
    for query, met, codes, reading in zip(asked, graders, answers, readings, strict=True):
        row = {"query": query["query"], "refused": codes is None, "answerable": met is not None}
        if met is not None:
            good = met(codes).double() if codes is not None else torch.zeros(1)
            row |= {
                "at 1": good[0].item(),
                "at n": good.mean().item(),
                "base": met(facts.members).double().mean().item(),
                "distinct": 0 if codes is None else len(codes.unique(dim=0)),
            }
        rows.append(row)
        if show and (row["refused"] == row["answerable"] or row.get("at n", 1) < 1):
            said = reading if isinstance(reading, Refused) else "; ".join(map(str, reading.record()["understood"]))
            print(f"- {query['query']!r}\n    asks {query['predicates']}\n    got  {said}  {row.get('at n')}")
    return _summary(rows, graders, facts, n)


def _answers(
    texts: list[str], readings: list[Understanding | Refused], facts: Facts, n: int, seed: int, method: str
) -> list[Tensor | None]:
    """Encodings for each text, None where it is refused."""
    if method == "embedding":
        model = text_model()
        vectors = model.embed(facts.space.decode_all(facts.members))
        near = model.embed_texts(texts, facts.space.name) @ vectors.T
        return [*facts.members[near.topk(n).indices]]
    generator = torch.Generator().manual_seed(seed)
    if method == "lookup":
        met = [
            None if isinstance(r, Refused) else facts.holds(r.request, facts.table).nonzero()[:, 0] for r in readings
        ]
        return [None if m is None else facts.members[m[torch.randperm(len(m), generator=generator)[:n]]] for m in met]
    pipeline = ArchitecturePipeline.load(facts.space.name)
    pipeline.set_progress_bar_config(disable=True)
    if method == "ask":
        return [None if isinstance(one, Refused) else answer(pipeline, one, n, seed).codes for one in readings]
    answers = []
    for text in texts:
        free = Understanding(text, (), (), (), facts, text_model())
        many = 4 * n if method == "told ranked" else n
        codes = pipeline(n=many, text=free, generator=generator).codes
        answers.append(codes[free.score(codes).argsort(descending=True)[:n]] if many > n else codes)
    return answers


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
            "random": base,
            "best constant list": constant([met for met in graders if met is not None], facts, n),
        }
    if cannot:
        result["refused rightly"] = _mean(row["refused"] for row in cannot)
    return result


def constant(graders: list[Any], facts: Facts, n: int) -> float:
    """Satisfaction of the best list that is given to every request alike, found greedily."""
    met = torch.stack([met(facts.members) for met in graders]).double()
    return met.mean(0).topk(n).values.mean().item()


def _mean(values: Any) -> float:
    values = [float(value) for value in values]
    return round(sum(values) / len(values), 4)


# ---- other wordings -------------------------------------------------------------------------------------------------
def wording(n: int = 300, seed: int = 1) -> dict[str, Any]:
    """Requests in phrases that were kept from training, and in known ones; refusals of both kinds."""
    found = {}
    for space in ("nasbench201", "nasbench101", "mnasnet"):
        facts = facts_of(space)
        for held_out in ("without", "only"):
            writer, random = Writer(facts, held_out), Random(seed)
            texts = [writer.request(random) for _ in range(n)]
            found[f"{space}, {'known' if held_out == 'without' else 'new'} wording"] = _read_right(texts, facts)
            odd = [writer.unknown(random) for _ in range(n // 4)] + [writer.unrelated(random) for _ in range(n // 4)]
            results = understand([text.text for text in odd], space)
            refused = [isinstance(one, Refused) for one in results]
            found[f"{space}, {'known' if held_out == 'without' else 'new'} refusals"] = {
                "unknown": _mean(refused[: n // 4]),
                "unrelated": _mean(refused[n // 4 :]),
            }
    return found


def _read_right(texts: list[Text], facts: Facts) -> dict[str, float]:
    """How often readings admit the same architectures, and only such as satisfy the text."""
    same, inside, refused, right_refusals = [], [], [], []
    for text, result in zip(texts, understand([text.text for text in texts], facts.space.name), strict=True):
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


# ---- one word or number apart ---------------------------------------------------------------------------------------
SWAPS = (
    ("at least", "at most"), ("more than", "fewer than"), ("with", "without"), ("3x3", "1x1"), ("no ", "some "),
    ("two", "three"), ("2", "3"), ("4", "5"), ("small", "large"), ("deep", "shallow"), ("skip", "pooling"),
    ("without any", "with some"), ("tiny", "huge"), ("k ", "M "), ("fewer", "more"), ("cheap", "expensive"),
)  # fmt: skip


def twins(n: int = 400, seed: int = 2) -> dict[str, float]:
    """Texts one word or number apart: which is preferred for architectures that only one is true of."""
    facts, random = facts_of("nasbench201"), Random(seed)
    writer = Writer(facts, "only")
    right = []
    generator = torch.Generator().manual_seed(seed)
    while len(right) < n:
        text = writer.request(random, 1)
        swap = [(a, b) for pair in SWAPS for a, b in (pair, pair[::-1]) if a in text.text]
        if not swap:
            continue
        a, b = random.choice(swap)
        one, other = understand([text.text, text.text.replace(a, b, 1)], "nasbench201")
        true = facts.holds(text.request, facts.table)
        if isinstance(one, Refused) or isinstance(other, Refused) or not true.any() or true.all():
            continue
        apart = true & ~facts.holds(other.request, facts.table)
        if not apart.any():
            continue
        code = facts.members[apart.nonzero().flatten()]
        code = code[torch.randint(len(code), (1,), generator=generator)]
        right.append(one.score(code).item() > other.score(code).item())
    return {"pairs": n, "right side preferred": _mean(right)}


# ---- finding --------------------------------------------------------------------------------------------------------
def retrieval(n: int = 100, captions: int = 1000, seed: int = 3) -> dict[str, float]:
    """Text to architecture among all cells (nDCG@10), and architecture to text among captions (R@1)."""
    facts, random = facts_of("nasbench201"), Random(seed)
    model = text_model()
    writer = Writer(facts, "only")
    gains = {"with reader": [], "embedding alone": []}
    discount = 1 / torch.arange(2, 12).double().log2()
    everything = model.embed(facts.space.decode_all(facts.members))
    while len(gains["with reader"]) < n:
        text = writer.request(random)
        true = facts.holds(text.request, facts.table)
        if true.sum() < 10:
            continue
        best = ranked(text.text, "nasbench201", facts.members)[:10]
        plain = (everything @ model.embed_texts([text.text], "nasbench201")[0]).topk(10).indices
        for name, order in (("with reader", best), ("embedding alone", plain)):
            gains[name].append(((true[order].double() * discount).sum() / discount.sum()).item())
    result = {f"nDCG@10, {name}": _mean(values) for name, values in gains.items()}
    return result | back(facts, model, captions, random)


def back(facts: Facts, model: ArchBERT, captions: int, random: Random) -> dict[str, float]:
    """R@1 of the caption of an architecture among many, with controls that see one side alone."""
    rows = torch.tensor(random.sample(range(len(facts.members)), captions))
    cells = facts.space.decode_all(facts.members[rows])
    texts = [describe(cell, facts) for cell in cells]
    vectors = model.embed(cells)
    written = torch.cat([model.embed_texts(texts[i : i + 50], facts.space.name) for i in range(0, captions, 50)])
    near = vectors @ written.T
    shuffled = near[:, torch.randperm(captions)]
    own = torch.arange(captions)
    return {
        "R@1": (near.argmax(-1) == own).double().mean().item(),
        "R@10": (near.topk(10).indices == own[:, None]).any(-1).double().mean().item(),
        "R@1, texts shuffled": (shuffled.argmax(-1) == own).double().mean().item(),
    }


def clones(n: int = 1000, seed: int = 4) -> dict[str, float]:
    """AUC of the cosine of embeddings: isomorphic encodings against networks one change away."""
    space, generator = load_space("nasbench201"), torch.Generator().manual_seed(seed)
    facts = facts_of("nasbench201")
    by_hash: dict[str, list[int]] = {}
    for row, cell in enumerate(space.decode_all(facts.members)):
        by_hash.setdefault(cell.hash, []).append(row)
    several = [rows for rows in by_hash.values() if len(rows) > 1]
    pick = [several[i] for i in torch.randint(len(several), (n,), generator=generator).tolist()]
    first = torch.tensor([rows[0] for rows in pick])
    second = torch.tensor([rows[1] for rows in pick])
    near = torch.stack([neighbours(space, facts.members[row][None])[1] for row in first.tolist()])
    embed = lambda codes: text_model().embed(space.decode_all(codes))  # noqa: E731
    a, b, c = embed(facts.members[first]), embed(facts.members[second]), embed(near)
    same, other = (a * b).sum(-1), (a * c).sum(-1)
    return {"AUC": (same[:, None] > other).double().mean().item()}


def check_text(
    part: str = "queries",
    file: str = "tests/queries.jsonl",
    n: int | None = None,
    seed: int = 0,
    show: bool = False,
    method: str = "ask",
    shuffled: bool = False,
) -> None:
    """Measure one part and print it.

    Args:
        part: queries, wording, twins, retrieval or clones.
        file: Graded queries.
        n: How many; architectures a query, or texts.
        seed: Of everything drawn.
        show: Whether to print queries that were not answered rightly.
        method: How queries are answered: ask, lookup, embedding, told or "told ranked".
        shuffled: Whether every query gets another's answer.
    """
    more = {} if n is None else {"n": n}
    if part == "queries":
        found = queries(file, seed=seed, show=show, method=method, shuffled=shuffled, **more)
    else:
        found = {"wording": wording, "twins": twins, "retrieval": retrieval, "clones": clones}[part](seed=seed, **more)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(check_text)
