"""Phrases: parts of requests in words, each with what it means.

Their forms are in `language.yaml`; what vague words mean is in `meaning.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from archgen.language import alternative, bank, singular_plural, usual
from archgen.meaning import ALL_OF, COUNTED, DISTINCT, ELSEWHERE, PARTITIONS, STYLES, WORDS
from archgen.numerals import beyond, large_number, rounded, small_number
from archgen.vocabulary import MILLIONS, OPERATIONS, Facts

MEGA = 0.2  # share of multiply-adds whose unit says that they are millions
MEGA_UNITS = ("MMACs", "MFLOPs", "MFLOPS", "MMAdds", "mega-FLOPs")
BEYOND = 0.05  # share of sizes and counts that are far from any that there is
IN_MILLIONS = re.compile(r"_m$|^M[A-Z]|^(mega|mparams|mflops|mmacs)|\(M\)$")  # names of costs that say so
QUANTITIES = {
    "==": ["{n}", "exactly {n}", "{n}", "precisely {n}"],
    ">=": ["at least {n}", "at least {n}", "{n} or more", "no fewer than {n}", ">= {n}"],
    "<=": ["at most {n}", "at most {n}", "{n} or fewer", "no more than {n}", "<= {n}"],
}
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


class Phrases:
    """Draws phrases about the architectures of one space.

    Args:
        facts: Of the space.
        held_out: `without` phrases that are kept from training; `phrases`, only such phrases where there are any; or
            all.

    Attributes:
        counted: Attributes that are counted, and the largest number of each that is worth saying.
        bank: The forms of all phrases.
    """

    def __init__(self, facts: Facts, held_out: str = "without"):
        self.facts, self.space = facts, facts.space.name
        self.words, self.counted, self.bank = WORDS[self.space], COUNTED[self.space], bank(held_out)
        self.nouns = {name: [singular_plural(one) for one in forms] for name, forms in self.bank["nouns"].items()}
        if self.space == "nasbench101":
            self.nouns["pool"] = self.nouns["maxpool"]
        self.depths = facts.table["depth"].unique().tolist()[1:]
        kinds: dict[Callable[[Random], Phrase], int] = {
            self._count: 20, self._present: 9, self._absent: 12, self._mostly: 5, self._few: 3, self._word: 22,
            self._neither: 4, self._both: 4, self._one_of: 3, self._instead: 4, self._more: 6, self._together: 3,
            self._as_well: 2, self._more_of_both: 1, self._each: 2, self._double: 2, self._one_absent: 1,
            self._three: 3, self._depth: 5, self._params: 8, self._flops: 7, self._two_counts: 5,
            self._either_not_both: 2, self._replaced: 1, self._listed: 5, self._either_count: 3, self._allowed: 4,
            self._outnumber: 2, self._revised: 2, self._changed: 1, self._coded: 5, self._equal_with: 2,
            self._limits: 2, self._those: 2, self._needless: 2,
        }  # fmt: skip
        if OPERATIONS[self.space]:
            kinds |= {self._only: 5, self._only_two: 3, self._all_convs: 2, self._but: 4, self._nothing_else: 5,
                      self._of_which: 3, self._one_type: 1}  # fmt: skip
        if ALL_OF[self.space]:
            kinds |= {self._every: 3, self._rest: 3, self._all_but: 3, self._some_not_all: 1}
        if self.space == "nasbench201":
            kinds |= {self._on_edges: 4, self._half: 1, self._dropped: 4, self._halves: 1, self._unweighted: 1}
        if self.space == "nasbench101":
            kinds |= {self._all_vertices: 1}
        if self.space == "mnasnet":
            kinds |= {self._layers_each: 3}
        self.kinds, self.weights = list(kinds), list(kinds.values())
        self._marks = 0

    def draw(self, random: Random, count: int = 1) -> list[Phrase]:
        """So many phrases, of kinds that people use more often more often."""
        return [kind(random) for kind in random.choices(self.kinds, self.weights, k=count)]

    def adjective(self, random: Random) -> Phrase:
        """A phrase that stands before what is asked for."""
        while True:
            phrase = random.choice([self._word, self._word, self._absent])(random)
            if phrase.role == "adj":
                return phrase

    # ---- choosing ------------------------------------------------------------------------------------------------
    def _form(self, random: Random, table: Mapping[str, list[str]]) -> tuple[str, str]:
        """Role and phrase: of roles with long lists more often, and what is said most."""
        roles = [role for role in ("adj", "np", "post", "say") if table.get(role)]
        (role,) = random.choices(roles, [len(table[role]) for role in roles])
        return role, alternative(usual(table[role], random), random)

    def _number(self, words: str, marked: dict[str, Number], slot: str) -> str:
        self._marks += 1
        marked[slot] = Number(self._marks)
        return f"{START}{self._marks}{MIDDLE}{words}{END}"

    def _countable(self) -> list[str]:
        """Attributes that stand for a kind of operation or stage."""
        return [name for name in self.counted if name not in ("layers", "edges", "ops")]

    def _attribute(self, random: Random, but: tuple[str, ...] = ()) -> str:
        return random.choice([name for name in self._countable() if name not in but])

    def _plural(self, random: Random, attribute: str) -> str:
        return usual(self.nouns[attribute], random)[1]

    # ---- kinds of phrases ----------------------------------------------------------------------------------------
    def fill(self, form: str, random: Random, attribute: str, n: float | None = None) -> str:
        """A form with a noun for the attribute in its slots: {P} plural, {S} singular, {N} as n has it."""
        singular, plural = usual(self.nouns[attribute], random)
        return form.replace("{N}", singular if n == 1 else plural).replace("{P}", plural).replace("{S}", singular)

    def _count(self, random: Random) -> Phrase:
        attribute = random.choice(list(self.counted))
        compare = random.choices(["==", ">=", "<=", ">", "<", "!=", "range", "either"], [34, 18, 16, 8, 8, 2, 9, 5])[0]
        role, form = self._form(random, self.bank["count"][compare])
        most = self.counted[attribute]
        low = 7 if attribute == "layers" else 0
        n = beyond(most, random) if random.random() < BEYOND else random.randint(low, most)
        m = n + random.randint(1, max(1, min(3, most + 2 - n)))
        return self._numeric(random, role, self.fill(form, random, attribute, n), (attribute,), compare, n, m, "count")

    def _revised(self, random: Random) -> Phrase:
        """A count, or a cost, that is taken back for another."""
        compare = random.choices(["==", ">=", "<="], [3, 2, 2])[0]
        if random.random() < 0.3:
            name = random.choice(["params", "flops"])
            role, form = self._form(random, self.bank["revised_cost"]["<=" if compare == "==" else compare])
            n, m = self._two_values(name, random)
            form = form.replace("{u}", str(random.choice(self.bank[name]["units"])))
            compare = "<=" if compare == "==" else compare
            return self._numeric(random, role, form, (name,), compare, n, m, "revised", large_number)
        attribute = self._attribute(random)
        n, m = random.sample(range(max(3, self.counted[attribute] + 1)), 2)
        role, form = self._form(random, self.bank["revised"][compare])
        text = self.fill(form, random, attribute, n)
        return self._numeric(random, role, text, (attribute,), compare, n, m, "revised")

    def _numeric(
        self, random: Random, role: str, form: str, names: tuple[str, ...], compare: str, n: float, m: float, key: str,
        spell: Callable[[float, Random], str] | None = None,
    ) -> Phrase:  # fmt: skip
        marked: dict[str, Number] = {}
        spell = spell or small_number
        for slot, value in (("n", n), ("m", m)):
            if "{" + slot + "}" in form:
                form = form.replace("{" + slot + "}", self._number(spell(value, random), marked, slot))
        if compare == "range":
            clauses = [[(names, ">=", marked["n"])], [(names, "<=", marked["m"])]]
        elif compare == "inside":
            clauses = [[(names, ">", marked["n"])], [(names, "<", marked["m"])]]
        elif compare == "either":
            clauses = [[(names, "==", marked["n"]), (names, "==", marked["m"])]]
        else:
            clauses = [[(names, compare, marked["n"])]]
        return Phrase(role, form, clauses, f"{key} {compare}")

    def _of_one(self, random: Random, kind: str, compare: str, number: float, names: tuple[str, ...] = ()) -> Phrase:
        attribute = random.choice(names) if names else self._attribute(random)
        role, form = self._form(random, self.bank[kind])
        return Phrase(role, self.fill(form, random, attribute), [[((attribute,), compare, number)]], kind)

    def _present(self, random: Random) -> Phrase:
        return self._of_one(random, "present", ">=", 1.0)

    def _absent(self, random: Random) -> Phrase:
        if random.random() < 0.15:  # to do without what the space lacks anyway asks for nothing
            return self._spared(random)
        return self._of_one(random, "absent", "==", 0.0)

    def _spared(self, random: Random) -> Phrase:
        """Without something that the space lacks anyway, which asks for nothing."""
        role, form = self._form(random, self.bank["spared" if random.random() < 0.3 else "absent"])
        if random.random() < 0.4:
            lacking = random.choice(self._nouns_elsewhere(random))[1]
        else:
            lacking = re.sub(r"^(an?|the) |\{n\} ", "", random.choice(self.lacking(random)))
        return Phrase(role, re.sub(r"\{[NPS]\}", lambda _: lacking, form), [], "absent unknown")

    def lacking(self, random: Random) -> list[str]:
        """What no space has, or what this one lacks."""
        return self.bank[random.choice(["unknown", "unknown_" + self.space.removeprefix("nasbench")])]

    def _nouns_elsewhere(self, random: Random) -> list[tuple[str, str]]:
        attribute = random.choice(ELSEWHERE[self.space])
        nouns = map(singular_plural, self.bank["nouns"][attribute])
        return [noun for noun in nouns if re.search(DISTINCT.get(attribute, ""), noun[0])]

    def elsewhere(self, random: Random) -> Phrase:
        """A request for so much of what only other spaces have."""
        kind, compare = random.choice(
            [("present", None), ("present", None), ("mostly", None), ("count", ">="), ("count", "=="), ("count", ">")]
        )
        n = random.randint(1, 6)
        role, form = self._form(random, self.bank[kind][compare] if compare else self.bank[kind])
        singular, plural = random.choice(self._nouns_elsewhere(random))
        slots = {"N": singular if n == 1 else plural, "P": plural, "S": singular, "n": small_number(n, random)}
        return Phrase(role, re.sub(r"\{([NPSn])\}", lambda slot: slots[slot[1]], form), [], "unknown")

    def _mostly(self, random: Random) -> Phrase:
        return self._of_one(random, "mostly", ">=", 4.0)

    def _few(self, random: Random) -> Phrase:
        return self._of_one(random, "few", "<=", 2.0, ("conv",) if "conv" in self.counted else ())

    def _every(self, random: Random) -> Phrase:
        kind = "every" if self.space == "nasbench201" else "every_stage"
        return self._of_one(random, kind, "==", ALL_OF[self.space], tuple(n for n in self.counted if n != "layers"))

    def _all_but(self, random: Random) -> Phrase:
        """In all places but so many."""
        attribute, n = self._attribute(random), random.choice([1, 1, 1, 2, 2, 3])
        role, form = self._form(random, self.bank["all_but" if self.space == "nasbench201" else "all_but_stages"])
        form = self.fill(form, random, attribute).replace("{n}", small_number(n, random))
        form = form.replace("{E}", "edge" if n == 1 else "edges").replace("{T}", "stage" if n == 1 else "stages")
        return Phrase(role, form, [[((attribute,), "==", ALL_OF[self.space] - n)]], "all_but")

    def _rest(self, random: Random) -> Phrase:
        """So many of one kind, and another in all other places."""
        a, b = random.choice(PARTITIONS[self.space])
        n = random.choice([1, 1, 1, 2, 2, 3])
        role, text, marked = self._counted(random, self.bank["rest"], [a], [n])
        text = text.replace("{B}", self._plural(random, b)).replace("{S}", usual(self.nouns[b], random)[0])
        return Phrase(role, text, [[((a,), "==", marked[0])], [((b,), "==", ALL_OF[self.space] - n)]], "rest")

    def _nothing_else(self, random: Random) -> Phrase:
        """So many of one or two operations, and no other; of empty edges nothing is said."""
        operations = OPERATIONS[self.space]
        names = random.sample(operations, random.choice([1, 1, 2]))
        if len(names) == 1 and random.random() < 0.25:
            names = ["conv"]
        numbers = [random.choice([1, 1, 2, 2, 3, 4]) for _ in names]
        role, text, marked = self._counted(random, self.bank["nothing_else"][str(len(names))], names, numbers)
        clauses = [[((name,), "==", mark)] for name, mark in zip(names, marked, strict=True)]
        absent = [name for name in operations if name not in self.facts.expand(names)]
        return Phrase(role, text, clauses + [[((name,), "==", 0.0)] for name in absent], "nothing_else")

    def _of_which(self, random: Random) -> Phrase:
        """So many convolutions, and how many of them are of one size."""
        own = random.choice(["conv3x3", "conv1x1"])
        n = random.randint(2, 5)
        m = random.randint(1, n - 1)
        role, text, marked = self._counted(random, self.bank["of_which"], ["conv", own], [n, m])
        return Phrase(role, text, [[(("conv",), "==", marked[0])], [((own,), "==", marked[1])]], "of_which")

    def _one_type(self, random: Random) -> Phrase:
        """Convolutions of one size, whichever."""
        role, form = self._form(random, self.bank["one_type"])
        lacking = [(("conv3x3",), "==", 0.0), (("conv1x1",), "==", 0.0)]
        return Phrase(role, form, [[(("conv",), ">=", 1.0)], lacking], "one_type")

    def _only(self, random: Random) -> Phrase:
        operations = OPERATIONS[self.space]
        attribute = random.choice([*operations, "conv"])
        role, form = self._form(random, self.bank["only"])
        own = self.facts.expand((attribute,))
        clauses = [[((attribute,), ">=", 1.0)], *([((name,), "==", 0.0)] for name in operations if name not in own)]
        return Phrase(role, self.fill(form, random, attribute), clauses, "only")

    def _pair(self, random: Random, kind: str) -> tuple[str, str, str, str]:
        """Role, filled phrase, and the two attributes."""
        a = self._attribute(random)
        overlapping = [name for name in self.counted if set(self.facts.expand((name,))) & set(self.facts.expand((a,)))]
        b = self._attribute(random, tuple(overlapping))
        return *self._named(random, self.bank[kind], (a, b)), a, b

    def _apart(self, random: Random, count: int) -> list[str]:
        """So many attributes that count different things, or all there are."""
        count = min(count, len(set(self.facts.expand(self._countable()))))
        while True:
            names = random.sample(self._countable(), count)
            if len(set(self.facts.expand(names))) == sum(len(self.facts.expand((name,))) for name in names):
                return names

    def _counted(
        self, random: Random, table: Mapping[str, list[str]], names: Sequence[str], numbers: Sequence[int]
    ) -> tuple[str, str, list[Number]]:
        """Role, a form with numbers in {n}, {m}, nouns that go with them in {A}, {B}, and the numbers' marks."""
        role, form = self._form(random, table)
        marked: dict[str, Number] = {}
        for slot, noun, name, number in zip("nm", "AB", names, numbers, strict=False):
            form = form.replace(f"{{{slot}}}", self._number(small_number(number, random), marked, slot))
            form = form.replace(f"{{{noun}}}", usual(self.nouns[name], random)[number != 1])
        return role, form, [*marked.values()]

    def _listed(self, random: Random) -> Phrase:
        """The counts of several attributes, those of a member."""
        names = self._apart(random, random.choices([2, 3, 4], [3, 4, 2])[0])
        row, style = random.randrange(len(self.facts.members)), alternative(random.choice(self.bank["listed"]), random)
        parts, clauses, marked = [], [], dict[str, Number]()
        for name in names:
            n = round(sum(self.facts.table[part][row].item() for part in self.facts.expand((name,))))
            singular, plural = usual(self.nouns[name], random)
            if not n and style.startswith("{n} ") and random.random() < 0.7:
                parts.append(f"no {plural}")
                clauses.append([((name,), "==", 0.0)])
                continue
            number = self._number(small_number(n, random), marked, name)
            part = style.replace("{n}", number).replace("{P}", plural).replace("{S}", singular)
            parts.append(part.replace("{N}", singular if n == 1 else plural))
            clauses.append([((name,), "==", marked[name])])
        between = random.choice([", ", ", ", "; ", " and ", " + "] if style.startswith("{n} ") else [", ", "; ", " "])
        last = random.choice([between, " and ", ", and ", " plus "]) if style.startswith("{n} ") else between
        text = last.join([between.join(parts[:-1]), parts[-1]])
        return Phrase(random.choice(["np", "say"]), text, clauses, "listed")

    def _either_count(self, random: Random) -> Phrase:
        """So many of one or so many of another."""
        names, compare = self._apart(random, 2), random.choice(["==", "==", ">="])
        numbers = [random.randint(1, min(3, self.counted[name])) for name in names]
        role, text, marked = self._counted(random, self.bank["either_count"][compare], names, numbers)
        clause = [((name,), compare, mark) for name, mark in zip(names, marked, strict=True)]
        return Phrase(role, text, [clause], f"either_count {compare}")

    def _allowed(self, random: Random) -> Phrase:
        """What may be there or not, perhaps beside what may not."""
        if random.random() < 0.7:
            role, form = self._form(random, self.bank["allowed"])
            return Phrase(role, self.fill(form, random, self._attribute(random)), [], "allowed")
        role, text, _, b = self._pair(random, "allowed_not")
        return Phrase(role, text, [[((b,), "==", 0.0)]], "allowed_not")

    def _outnumber(self, random: Random) -> Phrase:
        """More of one than of two others together."""
        a, b, c = self._apart(random, 3)
        role, text = self._named(random, self.bank["outnumber"], (a, b, c))
        return Phrase(role, text, [[((a,), ">", (b, c))]], "outnumber")

    def _equal_with(self, random: Random) -> Phrase:
        """As many of one as of another, or not, and of both at least so many; or as many as of two others together."""
        if random.random() < 0.35 and len(set(self.facts.expand(self._countable()))) > 2:
            compare = random.choice(["==", "==", "<", ">="])
            names = self._apart(random, 3)
            role, text = self._named(random, self.bank["sum_of_two"][compare], names)
            return Phrase(role, text, [[(tuple(names[:1]), compare, tuple(names[1:]))]], f"sum_of_two {compare}")
        compare, names = random.choice(["==", "==", "!="]), self._apart(random, 2)
        clause = [((names[0],), compare, (names[1],))]
        if compare == "!=" and random.random() < 0.6:
            role, text = self._named(random, self.bank["unequal"], names)
            return Phrase(role, text, [clause], "unequal")
        (role, text), marked = self._named(random, self.bank["equal_with"][compare], names), dict[str, Number]()
        if "{n}" in text:
            text = text.replace("{n}", self._number(small_number(random.randint(1, 3), random), marked, "n"))
        least = marked.get("n", 1.0)
        return Phrase(role, text, [clause, *([((name,), ">=", least)] for name in names)], f"equal_with {compare}")

    def _limits(self, random: Random) -> Phrase:
        """What is not wanted: fewer than so many of one, more than so many of another, which may be a cost."""
        names, kind = self._apart(random, 2), random.choice(["least_most", "least_most", "most_most", "least_least"])
        numbers = [random.randint(1, min(4, self.counted[name])) for name in names]
        role, form = self._form(random, self.bank["limits"][kind])
        marked: dict[str, Number] = {}
        words = [small_number(number, random) for number in numbers]
        nouns = [usual(self.nouns[name], random)[number != 1] for name, number in zip(names, numbers, strict=True)]
        if random.random() < 0.3:
            names[1] = random.choice(["params", "flops"])
            nouns[1] = str(random.choice(self.bank[names[1]]["units"]))
            words[1] = large_number(self._two_values(names[1], random)[0], random)
        for slot, noun, number, name in zip("nm", "AB", words, nouns, strict=True):
            form = form.replace(f"{{{slot}}}", self._number(number, marked, slot)).replace(f"{{{noun}}}", name)
        compares = {"least": ">=", "most": "<="}
        ends = [compares[end] for end in kind.split("_")]
        clauses = [[((name,), end, mark)] for name, end, mark in zip(names, ends, marked.values(), strict=True)]
        return Phrase(role, form, clauses, f"limits {kind}")

    def _those(self, random: Random) -> Phrase:
        """Something is named first, and how many of it are wanted is said then."""
        compare, attribute = random.choice(["==", ">=", "<="]), self._attribute(random)
        role, form = self._form(random, self.bank["those"][compare])
        n = random.randint(1, self.counted[attribute])
        return self._numeric(random, role, self.fill(form, random, attribute), (attribute,), compare, n, n, "those")

    def _needless(self, random: Random) -> Phrase:
        """What it need not be, which asks for nothing."""
        adjective = self.adjective(random)
        while adjective.key not in self.words:
            adjective = self.adjective(random)
        role, form = self._form(random, self.bank["needless"])
        return Phrase(role, form.replace("{x}", adjective.text), [], "needless")

    def _coded(self, random: Random) -> Phrase:
        """Limits as code or settings, all true of one member."""
        bank = self.bank["coded"]
        known = [name for name in bank["keys"] if name in {*self.counted, "depth", "params", "flops"}]
        names = random.sample(known, random.choice([1, 2, 2, 3]))
        row = random.randrange(len(self.facts.members))
        style = bank["styles"][random.choice([*bank["styles"]])]
        signs = {compare: random.choice(forms) for compare, forms in style["signs"].items()}
        pair, between, around = (random.choice(style[part]) for part in ("pair", "between", "around"))
        parts, clauses, marked = [], [], dict[str, Number]()
        for name in names:
            compare = random.choice([*signs])
            key = random.choice(bank["keys"]["maxpool" if self.space == "nasbench101" and name == "pool" else name])
            value = sum(self.facts.table[part][row].item() for part in self.facts.expand((name,)))
            words = self._limit(name, compare, value, key, random)
            number = self._number(words, marked, name)
            sign = random.choice(style["signs"][compare]) if random.random() < 0.1 else signs[compare]
            parts.append(pair.replace("{k}", key).replace("{o}", sign).replace("{n}", number))
            meant = "~" if compare == "==" and name in MILLIONS else compare  # no cost is met to the last digit
            clauses.append([((name,), meant, marked[name])])
        return Phrase("say", around.replace("{x}", between.join(parts)), clauses, "coded")

    def _limit(self, name: str, compare: str, value: float, key: str, random: Random) -> str:
        """A number in digits that a value is on the right side of; in millions where the key says so."""
        above = {"<=": 1, "<": 1, ">=": -1, ">": -1}.get(compare, 0)
        if name not in MILLIONS:
            strict = compare in ("<", ">")
            number = round(value) + above * (strict + random.choice([0, 0, 1, 2]))
            return str(max(number, 0))
        number = rounded(value * (1 + above * random.uniform(0.02, 0.4)), random)
        if IN_MILLIONS.search(key) and number < 1000:
            return f"{number:g}"
        if name == "flops" and (number >= 1000 or (number >= 10 and random.random() < 0.2)):
            return f"{number / 1000:.4g}{random.choice('GGBg')}"
        return random.choice([f"{number:g}M", f"{number:g}M", f"{number:g}m", f"{number:g}e6", f"{number * 1e6:.0f}"])

    def _some_not_all(self, random: Random) -> Phrase:
        attribute = self._attribute(random)
        role, form = self._form(random, self.bank["some_not_all" if self.space == "nasbench201" else "some_stages"])
        clauses = [[((attribute,), ">=", 1.0)], [((attribute,), "<=", ALL_OF[self.space] - 1)]]
        return Phrase(role, self.fill(form, random, attribute), clauses, "some_not_all")

    def _halves(self, random: Random) -> Phrase:
        """Half of the edges of one kind, half of another."""
        names = random.choice(PARTITIONS[self.space])
        role, text = self._named(random, self.bank["halves"], names)
        return Phrase(role, text, [[((name,), "==", 3.0)] for name in names], "halves")

    def _unweighted(self, random: Random) -> Phrase:
        """So many operations that are no convolutions."""
        compare = random.choice(["==", ">=", "<="])
        role, form = self._form(random, self.bank["unweighted"])
        n = random.randint(1, 5)
        form = form.replace("{q}", random.choice(QUANTITIES[compare]))
        return self._numeric(random, role, form, ("pool", "skip"), compare, n, n, "unweighted")

    def _all_vertices(self, random: Random) -> Phrase:
        role, form = self._form(random, self.bank["all_vertices"])
        return self._numeric(random, role, form, ("ops",), "==", 5, 5, "all_vertices")

    def _layers_each(self, random: Random) -> Phrase:
        """How many layers every stage has at least, or at most."""
        kind, lacking = random.choice(
            [("two", (1,)), ("two", (1,)), ("three", (1, 2)), ("not four", (4,)), ("not three", (3, 4))]
        )
        role, form = self._form(random, self.bank["layers_each"][kind])
        return Phrase(role, form, [[((f"layers{number}",), "==", 0.0)] for number in lacking], f"layers_each {kind}")

    def _named(self, random: Random, table: Mapping[str, list[str]], names: Sequence[str]) -> tuple[str, str]:
        """Role, and a form with plural nouns in {A}, {B}, {C}."""
        role, form = self._form(random, table)
        for slot, name in zip("ABC", names, strict=False):
            form = form.replace(f"{{{slot}}}", self._plural(random, name))
        return role, form

    def _neither(self, random: Random) -> Phrase:
        role, text, a, b = self._pair(random, "neither")
        return Phrase(role, text, [[((a,), "==", 0.0)], [((b,), "==", 0.0)]], "neither")

    def _both(self, random: Random) -> Phrase:
        role, text, a, b = self._pair(random, "both")
        return Phrase(role, text, [[((a,), ">=", 1.0)], [((b,), ">=", 1.0)]], "both")

    def _one_of(self, random: Random) -> Phrase:
        role, text, a, b = self._pair(random, "one_of")
        return Phrase(role, text, [[((a,), ">=", 1.0), ((b,), ">=", 1.0)]], "one_of")

    def _instead(self, random: Random) -> Phrase:
        role, text, a, b = self._pair(random, "without_but")
        return Phrase(role, text, [[((a,), ">=", 1.0)], [((b,), "==", 0.0)]], "without_but")

    def _more(self, random: Random) -> Phrase:
        kind, compare = random.choices([("more", ">"), ("equal", "=="), ("at_least_as", ">=")], [6, 3, 2])[0]
        role, text, a, b = self._pair(random, kind)
        return Phrase(role, text, [[((a,), compare, (b,))]], kind)

    def _more_of_both(self, random: Random) -> Phrase:
        role, text, a, b = self._pair(random, "more_of_both")
        return Phrase(role, text, [[((a,), ">", (b,))], [((b,), ">=", 1.0)]], "more_of_both")

    def _on_edges(self, random: Random) -> Phrase:
        """So many of the edges of a cell."""
        attribute, compare = self._attribute(random), random.choices(["==", ">=", "<="], [4, 1, 1])[0]
        role, form = self._form(random, self.bank["on_edges"][compare])
        n = random.randint(1, 5)
        return self._numeric(
            random, role, self.fill(form, random, attribute), (attribute,), compare, n, n, f"on_edges {compare}"
        )

    def _half(self, random: Random) -> Phrase:
        return self._of_one(random, "half", ">=", 3.0)

    def _each(self, random: Random) -> Phrase:
        names = ["conv3x3", "conv1x1"] if OPERATIONS[self.space] and random.random() < 0.3 else self._apart(random, 2)
        kind = "each_conv" if names == ["conv3x3", "conv1x1"] and random.random() < 0.7 else "each"
        n = random.randint(1, 3)
        role, text, (mark,) = self._counted(random, self.bank[kind], names[:1], [n])
        text = text.replace("{B}", usual(self.nouns[names[1]], random)[n != 1])
        return Phrase(role, text, [[((name,), "==", mark)] for name in names], "each")

    def _double(self, random: Random) -> Phrase:
        kind, compare = random.choice([("double_exact", "=="), ("double_least", ">=")])
        role, text, a, b = self._pair(random, kind)
        own = self.facts.expand((b,))
        return Phrase(role, text, [[((a,), compare, (*own, *own))]], kind)

    def _two_counts(self, random: Random) -> Phrase:
        names = self._apart(random, 2)
        numbers = [random.randint(0, min(4, self.counted[name])) for name in names]
        role, text, marked = self._counted(random, self.bank["two_counts"], names, numbers)
        clauses = [[((name,), "==", mark)] for name, mark in zip(names, marked, strict=True)]
        return Phrase(role, text, clauses, "two_counts")

    def _either_not_both(self, random: Random) -> Phrase:
        role, text, a, b = self._pair(random, "either_not_both")
        some, lacking = [((a,), ">=", 1.0), ((b,), ">=", 1.0)], [((a,), "==", 0.0), ((b,), "==", 0.0)]
        return Phrase(role, text, [some, lacking], "either_not_both")

    def _replaced(self, random: Random) -> Phrase:
        role, text, a, b = self._pair(random, "replaced")
        return Phrase(role, text, [[((b,), ">=", 1.0)], [((a,), "==", 0.0)]], "replaced")

    def _only_two(self, random: Random) -> Phrase:
        """Two operations and no other; of empty edges nothing is said."""
        a, b = random.sample(OPERATIONS[self.space], 2)
        role, text = self._named(random, self.bank["only_two"], (a, b))
        others = [name for name in OPERATIONS[self.space] if name not in (a, b)]
        clauses = [[((a,), ">=", 1.0)], [((b,), ">=", 1.0)], *([((name,), "==", 0.0)] for name in others)]
        return Phrase(role, text, clauses, "only_two")

    def _all_convs(self, random: Random) -> Phrase:
        """All convolutions of one size."""
        own, other = random.sample(["conv3x3", "conv1x1"], 2)
        role, form = self._form(random, self.bank["all_convs"])
        clauses = [[((own,), ">=", 1.0)], [((other,), "==", 0.0)]]
        return Phrase(role, self.fill(form, random, own), clauses, "all_convs")

    def _dropped(self, random: Random) -> Phrase:
        """So many edges are empty."""
        kind, compare = random.choices([("exactly", "=="), ("some", ">="), ("none", "==")], [5, 2, 2])[0]
        role, form = self._form(random, self.bank["dropped"][kind])
        n = {"exactly": random.randint(1, 4), "some": 1, "none": 0}[kind]
        form = form.replace("{E}", "edge" if n == 1 else "edges")
        if "{n}" not in form:
            return Phrase(role, form, [[(("none",), compare, float(n))]], f"dropped {kind}")
        return self._numeric(random, role, form, ("none",), compare, n, n, f"dropped {kind}")

    def _but(self, random: Random) -> Phrase:
        """Like something well known, but other in one respect, of which its own part is not asked any more."""
        styles = [name for name in STYLES if name in self.words]
        style = random.choice([*styles, "only"])
        if style == "only":
            base = self._only(random)
            while base.role == "say":
                base = self._only(random)
            known = {"adj": f"a {base.text} network", "np": f"a network with {base.text}"}
            known, clauses = known.get(base.role, f"a network {base.text}"), base.clauses
        else:
            known = random.choice(STYLES[style])
            clauses = [[((name,), compare, right)] for name, compare, right in self.words[style]]
        while True:
            (change,) = self.draw(random)
            if change.clauses and change.key not in ("but", "only", *STYLES):
                break
        named = {name for clause in change.clauses for names, _, _ in clause for name in self.facts.expand(names)}
        kept = [c for c in clauses if not any(set(self.facts.expand(names)) & named for names, _, _ in c)]
        form = random.choice(self.bank["but"][change.role])
        text = form.replace("{x}", known).replace("{y}", change.text)
        return Phrase("post" if text.startswith("like") else "say", text, kept + change.clauses, "but")

    def _one_absent(self, random: Random) -> Phrase:
        role, text, a, b = self._pair(random, "one_absent")
        return Phrase(role, text, [[((a,), "==", 0.0), ((b,), "==", 0.0)]], "one_absent")

    def _three(self, random: Random) -> Phrase:
        """Three attributes that are all absent, or all present."""
        kind, compare, number = random.choice([("none_of", "==", 0.0), ("all_of", ">=", 1.0)])
        basic = [name for name in self.counted if name not in ("layers", "edges", "ops", "conv")]
        names = random.sample(basic, 3)
        role, text = self._named(random, self.bank[kind], names)
        return Phrase(role, text, [[((name,), compare, number)] for name in names], kind)

    def _together(self, random: Random) -> Phrase:
        compare = random.choice(["==", ">=", "<="])
        role, text, a, b = self._pair(random, "together")
        text = text.replace("{q}", random.choice(QUANTITIES[compare]))
        n = random.randint(1, max(self.counted[a], 5))
        return self._numeric(random, role, text, (a, b), compare, n, n, "together")

    def _depth(self, random: Random) -> Phrase:
        compare = random.choices(["==", ">=", "<=", ">", "<"], [6, 3, 3, 1, 1])[0]
        role, form = self._form(random, self.bank["depth"][compare])
        deepest = round(max(self.depths))
        n = beyond(deepest, random) if random.random() < BEYOND else round(random.choice(self.depths))
        return self._numeric(random, role, form, ("depth",), compare, n, n, "depth")

    def _two_values(self, name: str, random: Random) -> tuple[float, float]:
        """Two costs of members in millions, rounded, apart in random order."""
        values = self.facts.table[name]
        n, m = sorted(float(values[random.randrange(len(values))]) for _ in range(2))
        n, m = rounded(n, random), rounded(max(m, n * 1.05), random)
        return (n, m) if random.random() < 0.5 else (m, n)

    def _costly(self, random: Random, name: str) -> Phrase:
        compare = random.choices(["<=", "<", ">=", ">", "range", "inside", "~"], [7, 7, 3, 5, 4, 2, 3])[0]
        role, form = self._form(random, self.bank[name][compare])
        unit = str(random.choice(self.bank[name]["units"]))
        n, m = sorted(self._two_values(name, random))
        if random.random() < BEYOND:
            n, m = (rounded(value * random.choice([0.01, 0.1, 10, 100]), random) for value in (n, m))
            m = max(m, n)
        spell = (lambda value, random: large_number(value, random, unit)) if name == "flops" else large_number
        if name == "flops" and m < 1000 and random.random() < MEGA:
            unit, spell = random.choice(MEGA_UNITS), lambda value, _: f"{value:g}"
        return self._numeric(random, role, form.replace("{u}", unit), (name,), compare, n, m, name, spell)

    def _params(self, random: Random) -> Phrase:
        return self._costly(random, "params")

    def _flops(self, random: Random) -> Phrase:
        return self._costly(random, "flops")

    def _word(self, random: Random) -> Phrase:
        weights = [
            3 if name in ("small", "large", "fast", "deep", "shallow", "tiny", "huge", "residual") else 1
            for name in self.words
        ]
        name = random.choices(list(self.words), weights)[0]
        table = self.bank["both_convs"] if name == "both_convs" else self.bank["words"][name]
        role, form = self._form(random, table)
        return Phrase(role, form, [[((a,), compare, right)] for a, compare, right in self.words[name]], name)

    def _two_adjectives(self, random: Random, kind: str) -> tuple[str, Phrase, Phrase]:
        """A filled form, and the adjectives in it."""
        first, second = self.adjective(random), self.adjective(random)
        form = random.choice(self.bank[kind])
        return form.replace("{x}", first.text).replace("{y}", second.text), first, second

    def _as_well(self, random: Random) -> Phrase:
        """Two adjectives at once."""
        text, first, second = self._two_adjectives(random, "as_well")
        return Phrase("say", text, first.clauses + second.clauses, "as_well")

    def _changed(self, random: Random) -> Phrase:
        """An adjective that is taken back for another."""
        text, _, now = self._two_adjectives(random, "changed")
        return Phrase("say", text, now.clauses, "changed")
