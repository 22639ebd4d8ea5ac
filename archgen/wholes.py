"""Wholes: requests that were written in one piece, with slots for kinds of operations, numbers and costs.

A form of `language.yaml` is its words, ` ::: `, and what they mean, as `A >= n; B == 0 | C > A; params <= P; small`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random
from typing import Any

from archgen.numerals import large_number, small_number
from archgen.slots import Number, Phrase, Slots

MEANS = " ::: "
FITS = {"nasbench201": "cells", "mnasnet": "stages"}  # what some forms speak of, beside those that fit all spaces
COSTS = {"P": "params", "F": "flops"}
MOST = 4  # of one kind that are asked for
COUNTED = re.compile(r"\{([nmk])\} \{([ABC])\}")


@dataclass(frozen=True)
class Part:
    """One comparison of a form.

    Attributes:
        left: Kinds, a cost or the depth.
        compare: The sign.
        right: A number, the slot of one, or kinds.
    """

    left: tuple[str, ...]
    compare: str
    right: float | str | tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> Part:
        """From `A + B <= n`."""
        left, compare, right = re.split(r" (>=|<=|==|!=|>|<) ", text)
        if re.fullmatch(r"[ABC]( \+ [ABC])*", right):
            return cls(tuple(left.split(" + ")), compare, tuple(right.split(" + ")))
        return cls(tuple(left.split(" + ")), compare, float(right) if right.isdigit() else right)


def whole(of: Slots, random: Random) -> Phrase:
    """A request in one piece."""
    forms = [*of.bank["whole"]["all"], *of.bank["whole"].get(FITS.get(of.space, ""), [])]
    text, _, means = random.choice(forms).partition(MEANS)
    clauses = [clause.split(" | ") for clause in means.split("; ") if clause]
    clauses.sort(key=lambda clause: _place(clause, text))
    kinds = dict(zip("ABC", of.apart(random, 3), strict=False))
    said = [[Part.read(part) for part in clause] for clause in clauses if clause[0] not in of.words]
    numbers = {
        part.right: _drawn(part, of, kinds, random) for parts in said for part in parts if isinstance(part.right, str)
    }
    text = COUNTED.sub(lambda at: f"{{{at[1]}}} {{{at[2].lower() if numbers.get(at[1]) == 1 else at[2]}}}", text)
    text, marked = _filled(text, of, kinds, numbers, random)
    meant: list[list[tuple[tuple[str, ...], str, Any]]] = []
    for clause in clauses:
        if clause[0] in of.words:
            meant += [[((name,), compare, right)] for name, compare, right in of.words[clause[0]]]
        else:
            meant.append([(_names(one.left, kinds), one.compare, _right(one, kinds, marked)) for one in said.pop(0)])
    return Phrase("whole", text, meant, "whole")


def _place(clause: list[str], text: str) -> int:
    """Where in a form the first slot of a clause is; vague words, whose place is not known, come first."""
    places = [text.lower().find(f"{{{slot.lower()}}}") for slot in re.findall(r"\b[A-Zk-n]\b", " ".join(clause))]
    return min((place for place in places if place >= 0), default=-1)


def _names(letters: tuple[str, ...], kinds: dict[str, str]) -> tuple[str, ...]:
    return tuple(kinds.get(letter, letter) for letter in letters)


def _right(part: Part, kinds: dict[str, str], marked: dict[str, Number]) -> Any:
    if isinstance(part.right, tuple):
        return _names(part.right, kinds)
    return marked[part.right] if isinstance(part.right, str) else part.right


def _drawn(part: Part, of: Slots, kinds: dict[str, str], random: Random) -> float:
    """A number for the slot on the right of a comparison."""
    if part.right in COSTS:
        return of.two_values(COSTS[part.right], random)[0]
    if part.left == ("depth",):
        return random.choice(of.depths)
    return random.randint(1, min(MOST, *(of.counted[name] for name in _names(part.left, kinds))) + len(part.left) - 1)


def _filled(
    text: str, of: Slots, kinds: dict[str, str], numbers: dict[str, float], random: Random
) -> tuple[str, dict[str, Number]]:
    """The words with nouns and numbers in them, and the marks of the numbers."""
    marked: dict[str, Number] = {}
    for slot, number in numbers.items():
        if slot in COSTS:
            unit = str(random.choice(of.bank[COSTS[slot]]["units"]))
            words = f"{of.number(large_number(number, random, unit), marked, slot)} {unit}"
        else:
            words = of.number(small_number(round(number), random), marked, slot)
        text = text.replace(f"{{{slot}}}", words)
    for letter, name in kinds.items():
        singular, plural = of.noun(name, random)
        text = text.replace(f"{{{letter}}}", plural).replace(f"{{{letter.lower()}}}", singular)
    return text, marked
