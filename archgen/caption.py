"""Captions: requests for architectures in words, with what they mean.

Every text carries its meaning as predicates (see `vocabulary.py`), from which it is known exactly which architectures
it is true of. Phrases are in `language.yaml`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import yaml

from archgen.numerals import find_numbers, large_number, rounded, small_number
from archgen.vocabulary import MILLIONS, OPERATIONS, Facts, Predicate, Request

HELD_OUT = 0.15  # share of phrases, and of nouns, that are kept from training
PAIRS_HELD_OUT = 0.05  # share of pairs of kinds of phrases that are kept from training
LEAST_HELD = 6  # of a list with fewer phrases none is held out
TYPOS, CASES, SHORT = 0.15, 0.35, 0.06  # shares of texts with slips of the keyboard, in unusual case, in shorthand
SHORTHAND = {
    "and": ["n", "&", "+", "nd"], "with": ["w/", "w"], "without": ["w/o"], "be": ["b"], "please": ["plz", "pls"],
    "you": ["u", "ya"], "your": ["ur"], "are": ["r"], "want to": ["wanna"], "has to": ["gotta"], "must": ["gotta"],
    "because": ["cuz", "bc"], "something": ["smth", "sth"], "give me": ["gimme"], "I'd": ["id"], "don't": ["dont"],
    "network": ["nn", "net"], "architecture": ["arch"], "at least": ["min", ">="], "at most": ["max", "<="],
    "number of": ["num", "#"], "parameters": ["params"], "really": ["rly"], "the": ["da", "the"],
}  # fmt: skip
STORIES, OPENINGS = 0.4, 0.65  # shares of requests with something else around, and with a beginning
CONTRARY = 0.04  # share of requests that contradict themselves on purpose
BEYOND = 0.05  # share of sizes that are far from any that there is
PREDICATES = (0.34, 0.40, 0.19, 0.07)  # shares of requests with one to four phrases
START, MIDDLE, END = "\x01", "\x02", "\x03"  # around the number and the text of what is a number
SPACE_WORDS = {
    "tiny": [("params", "<=", "q10")], "small": [("params", "<=", "q30")],
    "medium": [("params", ">=", "q40"), ("params", "<=", "q60")],
    "large": [("params", ">=", "q80")], "huge": [("params", ">=", "q95")],
    "fast": [("flops", "<=", "q30")], "micro": [("flops", "<=", "q10")], "expensive": [("flops", ">=", "q80")],
    "not_large": [("params", "<", "q80")], "not_small": [("params", ">", "q30")],
    "not_tiny": [("params", ">", "q10")], "not_huge": [("params", "<", "q95")],
    "not_fast": [("flops", ">", "q30")], "server": [("flops", ">=", "q80")], "accurate": [("accuracy", ">=", "q95")],
}  # fmt: skip
WORDS: dict[str, dict[str, list[tuple[str, str, Any]]]] = {
    "nasbench201": SPACE_WORDS | {
        "shallow": [("depth", "<=", 1.0)], "not_shallow": [("depth", ">", 1.0)], "deep": [("depth", ">=", 3.0)],
        "residual": [("skip", ">=", 1.0)], "resnet": [("skip", ">=", 1.0), ("conv3x3", ">=", 1.0)],
        "plain": [("skip", "==", 0.0)], "vgg": [("skip", "==", 0.0), ("conv3x3", ">=", 1.0)],
        "inception": [("conv3x3", ">=", 1.0), ("conv1x1", ">=", 1.0), ("pool", ">=", 1.0)],
        "convless": [("conv", "==", 0.0)], "dense": [("none", "==", 0.0)],
        "both_convs": [("conv3x3", ">=", 1.0), ("conv1x1", ">=", 1.0)],
    },
    "nasbench101": SPACE_WORDS | {
        "shallow": [("depth", "<=", "q20")], "not_shallow": [("depth", ">", "q20")], "deep": [("depth", ">=", "q80")],
        "inception": [("conv3x3", ">=", 1.0), ("conv1x1", ">=", 1.0), ("pool", ">=", 1.0)],
        "convless": [("conv", "==", 0.0)], "both_convs": [("conv3x3", ">=", 1.0), ("conv1x1", ">=", 1.0)],
    },
    "mnasnet": SPACE_WORDS | {
        "shallow": [("depth", "<=", "q20")], "not_shallow": [("depth", ">", "q20")], "deep": [("depth", ">=", "q80")],
        "bigger_kernels": [("kernel3", "==", 0.0)],
        "both_convs": [("kernel3", ">=", 1.0), ("kernel5", ">=", 1.0)],
    },
}  # fmt: skip
COUNTED: dict[str, dict[str, int]] = {  # attributes that are counted, and the largest number worth saying
    "nasbench201": {"conv3x3": 6, "conv1x1": 6, "pool": 6, "skip": 6, "none": 6, "conv": 6},
    "nasbench101": {"conv3x3": 5, "conv1x1": 5, "pool": 5, "conv": 5, "ops": 5, "edges": 9},
    "mnasnet": {
        "se": 7,
        "kernel3": 7,
        "kernel5": 7,
        "expand1": 7,
        "expand4": 7,
        "expand6": 7,
        "layers1": 7,
        "layers2": 7,
        "layers3": 7,
        "layers4": 1,
        "layers": 22,
    },
}
ELSEWHERE = {  # attributes of other spaces that this one lacks, and nouns among theirs that leave no doubt
    "nasbench201": ("se", "kernel5", "expand4", "expand6", "maxpool"),
    "nasbench101": ("se", "kernel5", "expand4", "expand6"),
    "mnasnet": ("pool", "maxpool", "none"),
}
DISTINCT = {"kernel5": "5|five", "maxpool": "(?i)max", "pool": "(?i)pool"}
STYLES = {  # well known designs, as they are named, by the words that say what is meant
    "resnet": ("a ResNet", "ResNet", "a resnet block", "a ResNet block"),
    "vgg": ("VGG", "a VGG net", "VGG-16", "a VGG block"),
    "inception": ("Inception", "an Inception block", "GoogLeNet", "an inception module"),
    "dense": ("DenseNet", "a densely connected cell", "a fully wired cell"),
}
ALL_OF = {"nasbench201": 6.0, "nasbench101": 0.0, "mnasnet": 7.0}  # as many as there can be of one kind


@cache
def language() -> dict[str, Any]:
    """The phrases of `language.yaml`."""
    return yaml.safe_load((Path(__file__).parent / "language.yaml").read_text(encoding="utf-8"))


def is_held_out(phrase: str, share: float = HELD_OUT) -> bool:
    """Whether a phrase, or a combination, is kept from training; decided by itself alone."""
    return zlib.crc32(phrase.encode()) % 1000 < 1000 * share


@cache
def phrases(held_out: str) -> dict[str, Any]:
    """The language with, in each of its lists, the phrases that `Writer` asks for, all of them if there are few."""

    def kept(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: kept(value) for key, value in part.items()}
        forms = [str(form) for form in part]
        if len(forms) < LEAST_HELD or held_out == "all":
            return forms
        return [form for form in forms if is_held_out(form) == (held_out == "phrases")] or forms

    return kept(language())


def singular_plural(noun: str) -> tuple[str, str]:
    """Both forms of a noun of the language; alike where it has one."""
    singular, _, plural = noun.partition("/")
    return singular, plural or singular


@dataclass(frozen=True)
class Text:
    """A text and what it means.

    Attributes:
        text: The words.
        request: Predicates that hold of exactly the architectures it is true of.
        pointers: For each predicate, in order, the position among the numbers of the text of the one it takes.
        kind: `request`, `unknown` (asks for what the space has no word for), `unrelated`, or a question about an
            architecture: `how` many or much of what the left side of the request names, or `whether` it is met.
        phrases: Which forms it is made of.
    """

    text: str
    request: Request = ()
    pointers: tuple[int | None, ...] = ()
    kind: str = "request"
    phrases: frozenset[str] = field(default_factory=frozenset)


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


class Number:
    """A number that is said, and how."""

    def __init__(self, mark: int, value: float):
        self.mark, self.value = mark, value


class Writer:
    """Writes requests for the architectures of one space.

    Args:
        facts: Of the space.
        held_out: `without` phrases and pairs of kinds of phrases that are kept from training; `phrases`, only such
            phrases where there are any; `pairs`, at least one such pair in every request; or `all`.
    """

    def __init__(self, facts: Facts, held_out: str = "without"):
        self.facts, self.space, self.held_out = facts, facts.space.name, held_out
        self.words, self.counted, self.phrases = WORDS[self.space], COUNTED[self.space], phrases(held_out)
        self.nouns = {name: [singular_plural(one) for one in forms] for name, forms in self.phrases["nouns"].items()}
        if self.space == "nasbench101":
            self.nouns["pool"] = self.nouns["maxpool"]
        self.depths = facts.table["depth"].unique().tolist()[1:]
        kinds: dict[Callable[[Random], Phrase | None], int] = {
            self._count: 20, self._present: 9, self._absent: 12, self._mostly: 5, self._few: 3, self._word: 22,
            self._neither: 4, self._both: 4, self._one_of: 3, self._instead: 4, self._more: 6, self._together: 3,
            self._as_well: 2, self._more_of_both: 1, self._each: 2, self._double: 2, self._one_absent: 1,
            self._three: 3, self._depth: 5, self._params: 8, self._flops: 7, self._two_counts: 5,
            self._either_not_both: 2, self._replaced: 1,
        }  # fmt: skip
        if OPERATIONS[self.space]:
            kinds |= {self._only: 5, self._only_two: 3, self._all_convs: 2, self._but: 4}
        if ALL_OF[self.space]:
            kinds[self._every] = 1
        if self.space == "nasbench201":
            kinds |= {self._on_edges: 4, self._half: 1, self._dropped: 4}
        self.kinds, self.weights = list(kinds), list(kinds.values())
        self._marks = 0

    # ---- choosing ------------------------------------------------------------------------------------------------
    def _form(self, random: Random, table: Mapping[str, list[str]]) -> tuple[str, str]:
        """Role and phrase: of roles with long lists more often, and what is said most."""
        roles = [role for role in ("adj", "np", "post", "say") if table.get(role)]
        (role,) = random.choices(roles, [len(table[role]) for role in roles])
        return role, _alternative(_usual(table[role], random), random)

    def _number(self, value: float, words: str, marked: dict[str, Number], slot: str) -> str:
        self._marks += 1
        marked[slot] = Number(self._marks, value)
        return f"{START}{self._marks}{MIDDLE}{words}{END}"

    def _attribute(self, random: Random, but: tuple[str, ...] = ()) -> str:
        return random.choice(
            [name for name in self.counted if name not in but and name not in ("layers", "edges", "ops")]
        )

    def _plural(self, random: Random, attribute: str) -> str:
        return _usual(self.nouns[attribute], random)[1]

    # ---- kinds of phrases ----------------------------------------------------------------------------------------
    def _fill(self, form: str, random: Random, attribute: str, n: float | None = None) -> str:
        singular, plural = _usual(self.nouns[attribute], random)
        return form.replace("{N}", singular if n == 1 else plural).replace("{P}", plural).replace("{S}", singular)

    def _count(self, random: Random) -> Phrase:
        attribute = random.choice(list(self.counted))
        compare = random.choices(["==", ">=", "<=", ">", "<", "!=", "range", "either"], [34, 18, 16, 8, 8, 2, 9, 5])[0]
        role, form = self._form(random, self.phrases["count"][compare])
        most = self.counted[attribute]
        low = 7 if attribute == "layers" else 0
        n = random.randint(low, most) if random.random() > 0.04 else random.randint(most, most + 6)
        m = min(n + random.randint(1, 3), most + 2)
        return self._numeric(
            random, role, self._fill(form, random, attribute, n), (attribute,), compare, n, m, "count"
        )

    def _numeric(
        self, random: Random, role: str, form: str, names: tuple[str, ...], compare: str, n: float, m: float, key: str,
        spell: Callable[[float, Random], str] | None = None,
    ) -> Phrase:  # fmt: skip
        marked: dict[str, Number] = {}
        spell = spell or small_number
        for slot, value in (("n", n), ("m", m)):
            if "{" + slot + "}" in form:
                form = form.replace("{" + slot + "}", self._number(value, spell(value, random), marked, slot))
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
        role, form = self._form(random, self.phrases[kind])
        return Phrase(role, self._fill(form, random, attribute), [[((attribute,), compare, number)]], kind)

    def _present(self, random: Random) -> Phrase:
        return self._of_one(random, "present", ">=", 1.0)

    def _absent(self, random: Random) -> Phrase:
        if random.random() < 0.15:  # to do without what the space lacks anyway asks for nothing
            return self._spared(random)
        return self._of_one(random, "absent", "==", 0.0)

    def _spared(self, random: Random) -> Phrase:
        """Without something that the space lacks anyway, which asks for nothing."""
        role, form = self._form(random, self.phrases["spared" if random.random() < 0.3 else "absent"])
        if random.random() < 0.4:
            lacking = random.choice(self._nouns_elsewhere(random))[1]
        else:
            lacking = re.sub(r"^(an?|the) |\{n\} ", "", random.choice(self._lacking(random)))
        return Phrase(role, re.sub(r"\{[NPS]\}", lambda _: lacking, form), [], "absent unknown")

    def _lacking(self, random: Random) -> list[str]:
        """What no space has, or what this one lacks."""
        return self.phrases[random.choice(["unknown", "unknown_" + self.space.removeprefix("nasbench")])]

    def _nouns_elsewhere(self, random: Random) -> list[tuple[str, str]]:
        attribute = random.choice(ELSEWHERE[self.space])
        nouns = map(singular_plural, self.phrases["nouns"][attribute])
        return [noun for noun in nouns if re.search(DISTINCT.get(attribute, ""), noun[0])]

    def _elsewhere(self, random: Random) -> Phrase:
        """A request for so much of what only other spaces have."""
        kind, compare = random.choice(
            [("present", None), ("present", None), ("mostly", None), ("count", ">="), ("count", "=="), ("count", ">")]
        )
        n = random.randint(1, 6)
        role, form = self._form(random, self.phrases[kind][compare] if compare else self.phrases[kind])
        singular, plural = random.choice(self._nouns_elsewhere(random))
        slots = {"N": singular if n == 1 else plural, "P": plural, "S": singular, "n": small_number(n, random)}
        return Phrase(role, re.sub(r"\{([NPSn])\}", lambda slot: slots[slot[1]], form), [], "unknown")

    def _mostly(self, random: Random) -> Phrase:
        return self._of_one(random, "mostly", ">=", 4.0)

    def _few(self, random: Random) -> Phrase:
        return self._of_one(random, "few", "<=", 2.0, ("conv",) if "conv" in self.counted else ())

    def _every(self, random: Random) -> Phrase:
        return self._of_one(random, "every", "==", ALL_OF[self.space], tuple(n for n in self.counted if n != "layers"))

    def _only(self, random: Random) -> Phrase:
        operations = OPERATIONS[self.space]
        attribute = random.choice([*operations, "conv"])
        role, form = self._form(random, self.phrases["only"])
        own = self.facts.expand((attribute,))
        clauses = [[((attribute,), ">=", 1.0)], *([((name,), "==", 0.0)] for name in operations if name not in own)]
        return Phrase(role, self._fill(form, random, attribute), clauses, "only")

    def _pair(self, random: Random, kind: str) -> tuple[str, str, str, str]:
        """Role, filled phrase, and the two attributes."""
        a = self._attribute(random)
        overlapping = [name for name in self.counted if set(self.facts.expand((name,))) & set(self.facts.expand((a,)))]
        b = self._attribute(random, tuple(overlapping))
        role, form = self._form(random, self.phrases[kind])
        return role, form.replace("{A}", self._plural(random, a)).replace("{B}", self._plural(random, b)), a, b

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
        kind, compare = random.choices([("more", ">"), ("equal", "=="), ("at_least_as", ">=")], [6, 3, 1])[0]
        role, text, a, b = self._pair(random, kind)
        return Phrase(role, text, [[((a,), compare, (b,))]], kind)

    def _more_of_both(self, random: Random) -> Phrase:
        role, text, a, b = self._pair(random, "more_of_both")
        return Phrase(role, text, [[((a,), ">", (b,))], [((b,), ">=", 1.0)]], "more_of_both")

    def _on_edges(self, random: Random) -> Phrase:
        """So many of the edges of a cell."""
        attribute, compare = self._attribute(random), random.choices(["==", ">=", "<="], [4, 1, 1])[0]
        role, form = self._form(random, self.phrases["on_edges"][compare])
        n = random.randint(1, 5)
        return self._numeric(
            random, role, self._fill(form, random, attribute), (attribute,), compare, n, n, f"on_edges {compare}"
        )

    def _half(self, random: Random) -> Phrase:
        return self._of_one(random, "half", ">=", 3.0)

    def _each(self, random: Random) -> Phrase:
        role, text, a, b = self._pair(random, "each")
        n = random.randint(1, 3)
        phrase = self._numeric(random, role, text, (a,), "==", n, n, "each")
        ((first,),) = phrase.clauses
        return Phrase(role, phrase.text, [[first], [((b,), "==", first[2])]], "each")

    def _double(self, random: Random) -> Phrase:
        kind, compare = random.choice([("double_exact", "=="), ("double_least", ">=")])
        role, text, a, b = self._pair(random, kind)
        own = self.facts.expand((b,))
        return Phrase(role, text, [[((a,), compare, (*own, *own))]], kind)

    def _two_counts(self, random: Random) -> Phrase:
        role, text, a, b = self._pair(random, "two_counts")
        one, other = random.randint(0, min(4, self.counted[a])), random.randint(1, min(4, self.counted[b]))
        phrase = self._numeric(random, role, text, (a,), "range", one, other, "two_counts")
        (first,), (second,) = phrase.clauses
        return Phrase(role, phrase.text, [[((a,), "==", first[2])], [((b,), "==", second[2])]], "two_counts")

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
        role, form = self._form(random, self.phrases["only_two"])
        text = form.replace("{A}", self._plural(random, a)).replace("{B}", self._plural(random, b))
        others = [name for name in OPERATIONS[self.space] if name not in (a, b)]
        clauses = [[((a,), ">=", 1.0)], [((b,), ">=", 1.0)], *([((name,), "==", 0.0)] for name in others)]
        return Phrase(role, text, clauses, "only_two")

    def _all_convs(self, random: Random) -> Phrase:
        """All convolutions of one size."""
        own, other = random.sample(["conv3x3", "conv1x1"], 2)
        role, form = self._form(random, self.phrases["all_convs"])
        clauses = [[((own,), ">=", 1.0)], [((other,), "==", 0.0)]]
        return Phrase(role, self._fill(form, random, own), clauses, "all_convs")

    def _dropped(self, random: Random) -> Phrase:
        """So many edges are empty."""
        kind, compare = random.choices([("exactly", "=="), ("some", ">="), ("none", "==")], [5, 2, 2])[0]
        role, form = self._form(random, self.phrases["dropped"][kind])
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
            change = random.choices(self.kinds, self.weights)[0](random)
            if change.clauses and change.key not in ("but", "only", *STYLES):
                break
        named = {name for clause in change.clauses for names, _, _ in clause for name in self.facts.expand(names)}
        kept = [c for c in clauses if not any(set(self.facts.expand(names)) & named for names, _, _ in c)]
        form = random.choice(self.phrases["but"][change.role])
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
        role, form = self._form(random, self.phrases[kind])
        for slot, name in zip("ABC", names, strict=True):
            form = form.replace("{" + slot + "}", self._plural(random, name))
        return Phrase(role, form, [[((name,), compare, number)] for name in names], kind)

    def _together(self, random: Random) -> Phrase:
        compare = random.choice(["==", ">=", "<="])
        role, text, a, b = self._pair(random, "together")
        text = text.replace(
            "{q}", {"==": random.choice(["{n}", "exactly {n}"]), ">=": "at least {n}", "<=": "at most {n}"}[compare]
        )
        n = random.randint(1, max(self.counted[a], 5))
        return self._numeric(random, role, text, (a, b), compare, n, n, "together")

    def _depth(self, random: Random) -> Phrase:
        compare = random.choices(["==", ">=", "<=", ">", "<"], [6, 3, 3, 1, 1])[0]
        role, form = self._form(random, self.phrases["depth"][compare])
        n = round(random.choice(self.depths))
        return self._numeric(random, role, form, ("depth",), compare, n, n, "depth")

    def _costly(self, random: Random, name: str) -> Phrase:
        compare = random.choices(["<=", "<", ">=", ">", "range", "inside", "~"], [7, 7, 3, 5, 4, 2, 3])[0]
        role, form = self._form(random, self.phrases[name][compare])
        unit = str(random.choice(self.phrases[name]["units"]))
        values = self.facts.table[name]
        n, m = sorted(float(values[random.randrange(len(values))]) for _ in range(2))
        if random.random() < BEYOND:
            n, m = (value * random.choice([0.01, 0.1, 10, 100]) for value in (n, m))
        n, m = rounded(n, random), rounded(max(m, n * 1.05), random)
        spell = (lambda value, random: large_number(value, random, unit)) if name == "flops" else large_number
        return self._numeric(random, role, form.replace("{u}", unit), (name,), compare, n, m, name, spell)

    def _params(self, random: Random) -> Phrase:
        return self._costly(random, "params")

    def _flops(self, random: Random) -> Phrase:
        return self._costly(random, "flops")

    def _word(self, random: Random) -> Phrase:
        weights = [
            3 if name in ("small", "large", "fast", "deep", "shallow", "tiny", "huge") else 1 for name in self.words
        ]
        name = random.choices(list(self.words), weights)[0]
        table = self.phrases["both_convs"] if name == "both_convs" else self.phrases["words"][name]
        role, form = self._form(random, table)
        return Phrase(role, form, [[((a,), compare, right)] for a, compare, right in self.words[name]], name)

    def _as_well(self, random: Random) -> Phrase:
        """Two adjectives at once."""
        pair: list[Phrase] = []
        while len(pair) < 2:
            pair += [
                one for one in (random.choice([self._word, self._word, self._absent])(random),) if one.role == "adj"
            ]
        form = random.choice(self.phrases["as_well"])
        text = form.replace("{x}", pair[0].text).replace("{y}", pair[1].text)
        return Phrase("say", text, pair[0].clauses + pair[1].clauses, "as_well")

    # ---- whole texts ---------------------------------------------------------------------------------------------
    def request(self, random: Random, kinds: int | None = None) -> Text:
        """A request of one to four phrases.

        Args:
            random: Source of randomness.
            kinds: Number of phrases.
        """
        contrary = kinds is None and random.random() < CONTRARY
        for _ in range(2000):
            count = kinds or max(
                1 + (contrary or self.held_out == "pairs"), random.choices([1, 2, 3, 4], PREDICATES)[0]
            )
            phrases = [draw(random) for draw in random.choices(self.kinds, self.weights, k=count)]
            if not self._admits(phrases):
                continue
            named = [
                {name for clause in phrase.clauses for names, _, _ in clause for name in names} for phrase in phrases
            ]
            repeated = sum(map(len, named)) > len(set().union(*named))
            if contrary > repeated or (repeated and not contrary and random.random() > 0.3):
                continue
            text = self._compose(phrases, random)
            if text is not None and not (
                repeated and contrary is self.facts.holds(text.request, self.facts.table).any().item()
            ):
                return text
        raise RuntimeError("no request could be written")

    def _admits(self, phrases: list[Phrase]) -> bool:
        """Whether these kinds of phrases may stand beside each other."""
        pairs = combinations(sorted(phrase.key for phrase in phrases), 2)
        held = any(is_held_out(" & ".join(pair), PAIRS_HELD_OUT) for pair in pairs)
        return {"without": not held, "pairs": held}.get(self.held_out, True)

    def _compose(self, phrases: list[Phrase], random: Random, head: str = "") -> Text | None:
        """Words in some order, about something called so; None where a number cannot be read back."""
        style = random.random()
        random.shuffle(phrases)
        head = head or _usual(self.phrases["frame"]["head"], random)
        if style < 0.55:
            raw = self._noun_phrase(head, phrases, random)
        elif style < 0.6:
            raw = self._list(head, phrases, random)
        else:
            raw = self._telegram(head, phrases, random, opened=style > 0.85)
        story = random.choice(self.phrases["frame"]["story"]) if random.random() < STORIES else ""
        if story and random.random() < 0.7:
            raw = f"{raw}{random.choice([' ', ', ', '. '])}{story}"
        elif story:
            raw = f"{story}{random.choice([', ', ': ', '. '])}{raw}"
        if random.random() < 0.2:
            raw += random.choice([".", "!", "?", " please", " pls", " thx"])
        return self._finished(raw, phrases, random)

    def _noun_phrase(self, head: str, phrases: list[Phrase], random: Random) -> str:
        """Adjectives, what is asked for, and what it has."""
        adjectives = [phrase.text for phrase in phrases if phrase.role == "adj"]
        others = sorted((one for one in phrases if one.role != "adj"), key=lambda one: one.role == "say")
        between = random.choice([" ", " ", ", ", ", ", " and ", " but "] if len(adjectives) == 2 else [" ", ", "])
        opening = _usual(self.phrases["frame"]["open"], random) if random.random() < OPENINGS else ""
        raw, before = " ".join([opening, between.join(adjectives), head]), ""
        for phrase in others:
            if phrase.role == "np":
                more = [" and ", ", ", ", and ", " plus ", " but "]
                link = random.choice(more if before == "np" else [" with ", " with ", " that has ", " having ", ": "])
            elif phrase.role == "post":
                link = random.choice([" ", " ", " and " if before else " ", ", "])
            else:
                link = random.choice([", ", ". ", "; ", " - ", " and "])
            raw, before = raw + link + phrase.text, phrase.role
        return raw

    def _list(self, head: str, phrases: list[Phrase], random: Random) -> str:
        """A title, and a line or a number for each phrase."""
        words = self.phrases["frame"]
        mark = random.choice(["- ", "* ", "\u2022 ", "1. ", "(1) ", "1) "])
        lines = [mark.replace("1", str(place)) + phrase.text for place, phrase in enumerate(phrases, 1)]
        title = random.choice([_usual(words["title"], random), f"{_usual(words['open'], random)} {head}:"])
        return f"{title}{random.choice([' ', chr(10)])}{random.choice([' ', chr(10), '; ']).join(lines)}"

    def _telegram(self, head: str, phrases: list[Phrase], random: Random, opened: bool) -> str:
        """Phrases in any order, loosely joined."""
        words = self.phrases["frame"]
        join = _usual(words["join"], random)
        parts = [
            f"{phrase.text} {head}" if phrase.role == "adj" and random.random() < 0.4 else phrase.text
            for phrase in phrases
        ]
        if opened and phrases[0].role == "post":
            parts[0] = f"{_usual(words['open'], random)} {head} {parts[0]}"
        raw = parts[0]
        for part in parts[1:]:
            raw += random.choice([join, join, _usual(words["join"], random)]) + part
        return raw

    def _finished(self, raw: str, phrases: list[Phrase], random: Random, kind: str = "request") -> Text | None:
        raw = re.sub(r"\ba (?=(\x01\d+\x02)?[aeiouAEIOU])", "an ", re.sub(r"\s+", " ", raw).strip())
        raw = _noisy(raw, random)
        text, spans = _unmarked(raw)
        mentions = find_numbers(text)
        place = {}
        for mark, (start, end) in spans.items():
            inside = [i for i, one in enumerate(mentions) if one.start < end and start < one.end]
            if len(inside) != 1:
                return None
            place[mark] = inside[0]
        request, pointers = [], []
        for phrase in sorted(phrases, key=lambda phrase: raw.find(phrase.text[:12])):
            for clause in phrase.clauses:
                alternatives = []
                for names, compare, right in clause:
                    pointer = None
                    if isinstance(right, Number):
                        mention = mentions[pointer := place[right.mark]]
                        right = mention.in_millions() if names[0] in MILLIONS else mention.value
                    pointers.append(pointer)
                    alternatives.append(Predicate(names, compare, right))
                request.append(tuple(alternatives))
        return Text(text, tuple(request), tuple(pointers), kind, frozenset(phrase.key for phrase in phrases))

    def anything(self, random: Random) -> Text:
        """A request for an architecture that says no more."""
        words = self.phrases["frame"]
        text = random.choice(words["any"])
        if random.random() < 0.4:
            text = f"{random.choice(words['open'])} {random.choice(words['head'])} {random.choice(words['story'])}"
        return self._finished(text, [], random)

    def question(self, random: Random) -> Text:
        """A question about an architecture that is there."""
        bank = self.phrases["questions"]
        if random.random() < 0.4:
            return self._whether(bank["whether"], random)
        costs = {"depth": 2, "params": 2, "flops": 2}
        attribute = random.choices([*self.counted, *costs], [*(1 for _ in self.counted), *costs.values()])[0]
        form = random.choice(bank[attribute if attribute in costs else "how"])
        if attribute in MILLIONS:
            form = form.replace("{u}", str(random.choice(self.phrases[attribute]["units"])))
        elif attribute not in costs:
            form = self._fill(form, random, attribute)
        asked = Phrase("say", form, [[((attribute,), ">=", 0.0)]], f"how {attribute}")
        text = self._finished(form, [asked], random)
        return replace(text, kind="how")

    def _whether(self, forms: list[str], random: Random) -> Text:
        while True:
            phrase = random.choices(self.kinds, self.weights)[0](random)
            if phrase.role == "np" and phrase.clauses:
                raw = random.choice(forms).replace("{x}", phrase.text)
                if (text := self._finished(raw, [phrase], random)) is not None:
                    return replace(text, kind="whether")

    def unknown(self, random: Random) -> Text:
        """A request for what the space has no word for, perhaps beside what it has."""
        others = [draw(random) for draw in random.choices(self.kinds, self.weights, k=random.choice([0, 1, 1, 2]))]
        if random.random() < 0.15:  # by what it is called
            text = self._named(random.choice(self.phrases["unknown_heads"]), others, random)
            return replace(text, request=(), pointers=(), kind="unknown")
        if random.random() < 0.35:
            phrase = self._elsewhere(random)
        else:
            lacking = random.choice(self._lacking(random)).replace("{n}", str(random.choice([2, 3, 4, 8, 12, 16])))
            forms = self.phrases["unknown_frames"] if random.random() < 0.5 else ["with {x}", "{x}", "using {x}"]
            template = _alternative(random.choice(forms), random)
            phrase = Phrase("post", template.replace("{x}", lacking), [], "unknown")
        text = self._compose([phrase, *others], random)
        return self.unknown(random) if text is None else replace(text, request=(), pointers=(), kind="unknown")

    def _named(self, head: str, phrases: list[Phrase], random: Random) -> Text:
        """A request for what is called so."""
        while True:
            if phrases:
                text = self._compose(phrases, random, head)
            else:
                opening = _usual(self.phrases["frame"]["open"], random) or "a"
                text = self._finished(f"{opening} {head}", [], random)
            if text is not None and head.lower()[:5] in text.text.lower():
                return text
            phrases = []

    def unrelated(self, random: Random) -> Text:
        """A text that asks for no architecture."""
        bank = self.phrases["unrelated"]
        text = _alternative(str(random.choice(bank["texts"])), random)
        while "{o}" in text:
            text = text.replace("{o}", random.choice(bank["objects"]), 1)
        while "{n}" in text:
            text = text.replace("{n}", small_number(random.randint(0, 12), random), 1)
        if random.random() < 0.35:
            extra = _alternative(str(random.choice(bank["texts"])), random)
            text += random.choice([" ", ". ", ", "]) + extra.replace("{o}", random.choice(bank["objects"])).replace(
                "{n}", "3"
            )
        if random.random() < 0.15:
            text = f"{random.choice(self.phrases['frame']['story'])} {text}"
        return Text(_noisy(text, random).strip() or "?", kind="unrelated", phrases=frozenset(["unrelated"]))


def _usual(forms: list[Any], random: Random) -> Any:
    """One of a list that begins with what is said most."""
    return forms[int(len(forms) * random.random() ** 2)]


def _alternative(form: str, random: Random) -> str:
    """One choice of each (a|b)."""
    while match := re.search(r"\(([^()|]*(?:\|[^()|]*)+)\)", form):
        form = form[: match.start()] + random.choice(match[1].split("|")) + form[match.end() :]
    return form


def _noisy(raw: str, random: Random) -> str:
    """Shorthand, slips of the keyboard and unusual case, outside of numbers and kernels."""
    pieces = re.split(rf"({START}\d+{MIDDLE}[^{END}]*{END}|\d\s?[x\u00d7]\s?\d)", raw)
    if random.random() < SHORT:
        for word, short in SHORTHAND.items():
            if random.random() < 0.7:
                change = partial(re.sub, rf"\b{word}\b", random.choice(short))
                pieces = [change(piece) if not i % 2 else piece for i, piece in enumerate(pieces)]
    if random.random() < TYPOS:
        for _ in range(random.choice([1, 1, 2, 3])):
            index = 2 * random.randrange((len(pieces) + 1) // 2)
            pieces[index] = _slip(pieces[index], random)
    case = random.random()
    if case < CASES:
        change = str.lower if case < 0.28 else str.upper if case < 0.31 else str.capitalize
        pieces = [change(piece) if not i % 2 or case < 0.31 else piece for i, piece in enumerate(pieces)]
    return "".join(pieces)


def _slip(text: str, random: Random) -> str:
    words = [match for match in re.finditer(r"[a-zA-Z]{5,}", text)]
    if not words:
        return text
    match = random.choice(words)
    word, at = match[0], random.randrange(1, len(match[0]) - 1)
    slips = [
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
        word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :],
        word[:at] + random.choice("abcdefghijklmnopqrstuvwxyz") + word[at + 1 :],
    ]
    return text[: match.start()] + random.choice(slips) + text[match.end() :]


def _unmarked(raw: str) -> tuple[str, dict[int, tuple[int, int]]]:
    """The text without marks, and where each marked number is."""
    text, spans, position = "", {}, 0
    for match in re.finditer(rf"{START}(\d+){MIDDLE}([^{END}]*){END}", raw):
        text += raw[position : match.start()]
        spans[int(match[1])] = (len(text), len(text) + len(match[2]))
        text += match[2]
        position = match.end()
    return text + raw[position:], spans
