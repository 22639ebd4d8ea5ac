"""Slots: forms of phrases about one space, and the nouns and numbers that fill them.

Their forms are in `language.yaml`; what vague words mean is in `meaning.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from archgen.language import alternative, bank, singular_plural, usual
from archgen.meaning import COUNTED, DISTINCT, ELSEWHERE, WORDS
from archgen.numerals import rounded, small_number
from archgen.vocabulary import Facts

BEYOND = 0.05  # share of sizes and counts that are far from any that there is
START, MIDDLE, END = "\x01", "\x02", "\x03"  # around the number and the text of what is a number


@dataclass
class Phrase:
    """A part of a request.

    Attributes:
        role: `adj`, `np`, `post` or `say`.
        text: Words with numbers marked.
        clauses: What it means; numbers that are said are keyed by their mark.
        key: Where in `language.yaml` it comes from.
    """

    role: str
    text: str
    clauses: list[list[tuple[tuple[str, ...], str, Any]]]
    key: str


@dataclass(frozen=True)
class Number:
    """A number that is said; it is read back from the finished text by its mark."""

    mark: int


class Slots:
    """The language as it speaks of one space.

    Args:
        facts: Of the space.
        held_out: `without` phrases that are kept from training; `phrases`, only such phrases where there are any; or
            all.

    Attributes:
        counted: Attributes that are counted, and the largest number of each that is worth saying.
        words: What vague words mean.
        nouns: For each attribute its nouns, singular and plural.
        depths: Those that there are.
        bank: The forms of all phrases.
    """

    def __init__(self, facts: Facts, held_out: str = "without"):
        self.facts, self.space = facts, facts.space.name
        self.words, self.counted, self.bank = WORDS[self.space], COUNTED[self.space], bank(held_out)
        self.nouns = {name: [singular_plural(one) for one in forms] for name, forms in self.bank["nouns"].items()}
        if self.space == "nasbench101":
            self.nouns["pool"] = self.nouns["maxpool"]
        self.depths = facts.table["depth"].unique().tolist()[1:]
        self._marks = 0

    # ---- choosing ------------------------------------------------------------------------------------------------
    def form(self, random: Random, table: Mapping[str, list[str]]) -> tuple[str, str]:
        """Role and phrase: of roles with long lists more often, and what is said most."""
        roles = [role for role in ("adj", "np", "post", "say") if table.get(role)]
        (role,) = random.choices(roles, [len(table[role]) for role in roles])
        return role, alternative(usual(table[role], random), random)

    def number(self, words: str, marked: dict[str, Number], slot: str) -> str:
        """A number in words, marked, and kept under a slot's name."""
        self._marks += 1
        marked[slot] = Number(self._marks)
        return f"{START}{self._marks}{MIDDLE}{words}{END}"

    def countable(self) -> list[str]:
        """Attributes that stand for a kind of operation or stage."""
        return [name for name in self.counted if name not in ("layers", "edges", "ops")]

    def attribute(self, random: Random, but: tuple[str, ...] = ()) -> str:
        """Any that stands for a kind of operation or stage."""
        return random.choice([name for name in self.countable() if name not in but])

    def noun(self, attribute: str, random: Random) -> tuple[str, str]:
        """One of its nouns, what is said most more often: singular and plural."""
        return usual(self.nouns[attribute], random)

    def plural(self, random: Random, attribute: str) -> str:
        """One of its plural nouns."""
        return self.noun(attribute, random)[1]

    def apart(self, random: Random, count: int) -> list[str]:
        """So many attributes that count different things, or all there are."""
        count = min(count, len(set(self.facts.expand(self.countable()))))
        while True:
            names = random.sample(self.countable(), count)
            if len(set(self.facts.expand(names))) == sum(len(self.facts.expand((name,))) for name in names):
                return names

    def value(self, name: str, row: int) -> float:
        """How much of an attribute a member has."""
        return sum(self.facts.table[part][row].item() for part in self.facts.expand((name,)))

    def two_values(self, name: str, random: Random) -> tuple[float, float]:
        """Two costs of members in millions, rounded, apart in random order."""
        values = self.facts.table[name]
        n, m = sorted(float(values[random.randrange(len(values))]) for _ in range(2))
        n, m = rounded(n, random), rounded(max(m, n * 1.05), random)
        return (n, m) if random.random() < 0.5 else (m, n)

    # ---- filling -------------------------------------------------------------------------------------------------
    def fill(self, form: str, random: Random, attribute: str, n: float | None = None) -> str:
        """A form with a noun for the attribute in its slots: {P} plural, {S} singular, {N} as n has it."""
        singular, plural = self.noun(attribute, random)
        return form.replace("{N}", singular if n == 1 else plural).replace("{P}", plural).replace("{S}", singular)

    def named(self, random: Random, table: Mapping[str, list[str]], names: Sequence[str]) -> tuple[str, str]:
        """Role, and a form with plural nouns in {A}, {B}, {C}."""
        role, form = self.form(random, table)
        for slot, name in zip("ABC", names, strict=False):
            form = form.replace(f"{{{slot}}}", self.plural(random, name))
        return role, form

    def pair(self, random: Random, kind: str) -> tuple[str, str, str, str]:
        """Role, filled phrase, and the two attributes."""
        a = self.attribute(random)
        overlapping = [name for name in self.counted if set(self.facts.expand((name,))) & set(self.facts.expand((a,)))]
        b = self.attribute(random, tuple(overlapping))
        return *self.named(random, self.bank[kind], (a, b)), a, b

    def numbered(
        self, random: Random, table: Mapping[str, list[str]], names: Sequence[str], numbers: Sequence[int]
    ) -> tuple[str, str, list[Number]]:
        """Role, a form with numbers in {n}, {m}, nouns that go with them in {A}, {B}, and the numbers' marks."""
        role, form = self.form(random, table)
        marked: dict[str, Number] = {}
        for slot, noun, name, number in zip("nm", "AB", names, numbers, strict=False):
            form = form.replace(f"{{{slot}}}", self.number(small_number(number, random), marked, slot))
            form = form.replace(f"{{{noun}}}", self.noun(name, random)[number != 1])
        return role, form, [*marked.values()]

    def numeric(
        self, random: Random, role: str, form: str, names: tuple[str, ...], compare: str, n: float, m: float, key: str,
        spell: Callable[[float, Random], str] | None = None,
    ) -> Phrase:  # fmt: skip
        """A phrase with a number or two in its slots."""
        marked: dict[str, Number] = {}
        spell = spell or small_number
        for slot, value in (("n", n), ("m", m)):
            if "{" + slot + "}" in form:
                form = form.replace("{" + slot + "}", self.number(spell(value, random), marked, slot))
        if compare == "range":
            clauses = [[(names, ">=", marked["n"])], [(names, "<=", marked["m"])]]
        elif compare == "inside":
            clauses = [[(names, ">", marked["n"])], [(names, "<", marked["m"])]]
        elif compare == "either":
            clauses = [[(names, "==", marked["n"]), (names, "==", marked["m"])]]
        else:
            clauses = [[(names, compare, marked["n"])]]
        return Phrase(role, form, clauses, f"{key} {compare}")

    def of_one(self, random: Random, kind: str, compare: str, number: float, names: tuple[str, ...] = ()) -> Phrase:
        """A phrase that compares one attribute with a number that is not said."""
        attribute = random.choice(names) if names else self.attribute(random)
        role, form = self.form(random, self.bank[kind])
        return Phrase(role, self.fill(form, random, attribute), [[((attribute,), compare, number)]], kind)

    # ---- what there is not ---------------------------------------------------------------------------------------
    def lacking(self, random: Random) -> list[str]:
        """What no space has, or what this one lacks."""
        return self.bank[random.choice(["unknown", "unknown_" + self.space.removeprefix("nasbench")])]

    def nouns_elsewhere(self, random: Random) -> list[tuple[str, str]]:
        """Nouns of something that only other spaces have."""
        attribute = random.choice(ELSEWHERE[self.space])
        nouns = map(singular_plural, self.bank["nouns"][attribute])
        return [noun for noun in nouns if re.search(DISTINCT.get(attribute, ""), noun[0])]

    def elsewhere(self, random: Random) -> Phrase:
        """A request for so much of what only other spaces have."""
        kind, compare = random.choice(
            [("present", None), ("present", None), ("mostly", None), ("count", ">="), ("count", "=="), ("count", ">")]
        )
        n = random.randint(1, 6)
        role, form = self.form(random, self.bank[kind][compare] if compare else self.bank[kind])
        singular, plural = random.choice(self.nouns_elsewhere(random))
        slots = {"N": singular if n == 1 else plural, "P": plural, "S": singular, "n": small_number(n, random)}
        return Phrase(role, re.sub(r"\{([NPSn])\}", lambda slot: slots[slot[1]], form), [], "unknown")
