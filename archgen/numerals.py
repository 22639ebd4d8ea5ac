"""Numerals: numbers in running text, as digits or words, with their magnitudes: 350k, 0.35M, a third of a million.

They are found in what people write, and written as people do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from random import Random

UNITS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
TENS = {
    word: 10 * value for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)
}
SCALES = {"dozen": 12.0, "hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9}
SINGLE = {
    "single": 1.0,
    "once": 1.0,
    "twice": 2.0,
    "thrice": 3.0,
    "couple": 2.0,
    "pair": 2.0,
    "duo": 2.0,
    "triple": 3.0,
    "trio": 3.0,
}
MAGNITUDES = {
    "k": 1e3, "thousand": 1e3, "thousands": 1e3, "kilo": 1e3, "m": 1e6, "mio": 1e6, "mil": 1e6, "mln": 1e6, "mm": 1e6,
    "million": 1e6, "millions": 1e6, "mega": 1e6, "g": 1e9, "b": 1e9, "bn": 1e9, "billion": 1e9, "giga": 1e9,
    "t": 1e12, "trillion": 1e12, "tera": 1e12,
}  # fmt: skip
FRACTIONS = {"half": 1 / 2, "third": 1 / 3, "quarter": 1 / 4, "fifth": 1 / 5, "tenth": 1 / 10,
             "thirds": 1 / 3, "quarters": 1 / 4, "fifths": 1 / 5, "tenths": 1 / 10}  # fmt: skip

_SCALE = rf"(?:{'|'.join(SCALES)})"
_BELOW = (
    rf"(?:(?:{'|'.join(TENS)})(?:[\s-]+(?:{'|'.join(list(UNITS)[1:10])})\b)?|(?:{'|'.join(UNITS)}))\b"  # a hundred
)
_SCALED = rf"(?:{_BELOW}(?:[\s-]+{_SCALE}\b)+|{_SCALE}\b(?:[\s-]+{_SCALE}\b)*)"
_SPELLED = rf"(?:{_SCALED}(?:[\s-]+(?:and\s+)?{_SCALED})*(?:[\s-]+(?:and\s+)?{_BELOW})?|{_BELOW})"
_POINT = rf"point(?:\s+(?:{'|'.join(list(UNITS)[:10])})\b)+"
_KERNEL = re.compile(
    r"(?<![\w.])(\d{1,2})\s?(?:[x\u00d7*]|by|-by-)\s?\1(?![\d.]|[x\u00d7]\s?\d)|\b(one|three|five|seven)[\s-]by[\s-]\2\b"
    r"|(?<=conv)(\d)x\3|(?<=pool_)(\d)x\4|(?<=conv_)(\d)x\5",
    re.IGNORECASE,
)
_SUFFIX = r"(?P<suffix>k|m|g|b|t|mm|mio|mil|mln|bn|thousands?|millions?|billion|trillion|kilo|mega|giga|tera)"
_UNIT_GLUED = r"(?=flop|mac|mult|madd|param|ops|weight)"
_POWERS = re.compile(  # 1/2 million, 10^6, 1.2 x 10**6
    rf"(?<![\w.,/])(?:(?:(?P<ones>\d{{1,2}})\s+)?(?P<part>\d{{1,2}})[/\u2044](?P<whole>\d{{1,2}})(?:\s+of\s+an?\s+|[\s-]?){_SUFFIX}(?:\b|{_UNIT_GLUED})"
    rf"|(?:(?P<times>\d+(?:\.\d+)?)\s?[x*\u00d7\u00b7]\s?)?10\s?(?:\^|\*\*)\s?(?P<power>\d{{1,2}})(?!\d))",
    re.IGNORECASE,
)
_IN_MILLIONS = re.compile(r"(?:_m|[(\[]m[)\]]|\bm(?:flops?|macs?|params?))\W{0,6}$", re.IGNORECASE)  # macs_m <= 2000
NO_SUFFIX = rf"(?![\s-]?{_SUFFIX.replace('?P<suffix>', '?:')}(?:\b|{_UNIT_GLUED}))"
_GROUPED = rf"\d{{1,3}}(?:(?:[,'_]\d{{3}})+|(?: \d{{3}})+{NO_SUFFIX}|(?:\.\d{{3}}){{2,}})|\d{{2,3}}\.000"
_COUNTED = re.compile(
    r"\b(depth|deep|layers?|skips?|shortcuts?|conv\w*|pool\w*|edges?|stages?)\b\W*(\w+\W+){0,3}$", re.IGNORECASE
)
_DIGITS = re.compile(
    rf"(?<![\w,])(?<![^.]\.)(?:x\s?)?(?P<number>{_GROUPED}(?!\d)(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+)"
    rf"(?P<exponent>e\+?\d{{1,2}})?(?P<and_half>\s+and\s+a\s+half)?(?:[\s-]?{_SUFFIX}(?:\b|{_UNIT_GLUED}))?(?=\W|$|x\b|x\s|th\b|flop|mac|param|layer|ops|conv|skip|pool|stage|edge)",
    re.IGNORECASE,
)
_WORDS = re.compile(
    rf"\b(?P<fraction>(?:(?:a|one|two|three)[\s-])?(?:{'|'.join(FRACTIONS)})(?:(?:\s+of)?\s+(?:an?|one)\s+|\s+|-)(?P<of>million|billion|thousand|dozen|hundred|mil|mio|mln|m))\b"
    rf"|\b(?P<words>(?:an?\s+(?=million|billion|thousand|hundred|dozen))?(?:{_SPELLED}(?:\s+{_POINT})?|{_POINT})(?P<half>\s+and\s+a\s+half)?"
    rf"(?:\s+(?:hundred|thousand|million|billion))?)\b"
    rf"|\b(?P<single>{'|'.join(SINGLE)})\b",
    re.IGNORECASE,
)


BETWEEN = re.compile(
    r"\s*(?:-|\u2013|and|or|but|"
    r"(?:(?:and|or|but)\s+)?(?:up to|at most|under|below|less than|no more than|max(?:imum)?))\s*"
)
COUNTS = 30  # whole numbers below may be counts
SMALL = list(UNITS)[:13]  # numbers that may be written as words
GROUPS = {2: ["a couple of", "a pair of", "a duo of"], 3: ["a trio of"]}


@dataclass(frozen=True)
class Mention:
    """One number in a text.

    Attributes:
        start: Of its characters.
        end: Behind them.
        value: The number.
        magnitude: Whether a magnitude such as k or million was said, so that the value is absolute.
    """

    start: int
    end: int
    value: float
    magnitude: bool

    def in_millions(self) -> float:
        """As a number of millions: what is said without a magnitude is absolute from 1,000 on."""
        return self.value / 1e6 if self.magnitude or self.value >= 1000 else self.value


def find_numbers(text: str) -> list[Mention]:
    """All numbers in a text, from left to right; sizes of kernels such as 3x3 are none."""
    kernels = [match.span() for match in _KERNEL.finditer(text)]
    found: list[Mention] = []
    scales: list[float] = []  # what was said beside each: 1e6 for million, 1 for nothing
    matches = [*_POWERS.finditer(text), *_DIGITS.finditer(text), *_WORDS.finditer(text)]
    for match in sorted(matches, key=lambda match: match.start()):
        start, end = match.span()
        if any(start < e and s < end for s, e in kernels) or (found and start < found[-1].end):
            continue
        value, scale = VALUES[match.re](match)
        if value is not None and 1000 <= value and scale == 1 and _IN_MILLIONS.search(text[:start]):
            value, scale = 1e6 * value, 1e6
        if value is not None:
            found.append(Mention(start, end, value, scale >= 1000))
            scales.append(scale)
    return _shared(text, found, scales)


def _shared(text: str, found: list[Mention], scales: list[float]) -> list[Mention]:
    """In `100 to 150M` the first number is in millions too, but not in `depth 3 and 150M`."""
    result = list(found)
    for index, (one, other) in enumerate(pairwise(found)):
        between = text[one.end : other.start].lower()
        counted = one.value < COUNTS and one.value % 1 == 0 and _COUNTED.search(text[: one.start])
        glued = between.strip() in ("to", "till") or between in ("-", "\u2013")
        shares = glued or (BETWEEN.fullmatch(between) and not counted)
        value = one.value * (scales[index + 1] if one.value < 1000 else 1)
        if other.magnitude and not one.magnitude and shares and value <= other.value:
            result[index] = Mention(one.start, one.end, value, True)
    return result


def _digits(match: re.Match[str]) -> tuple[float | None, float]:
    number = match["number"]
    if re.fullmatch(r"\d{1,3}([,'_ ]\d{3})+(\.\d+)?", number):
        number = re.sub(r"[,'_ ]", "", number)
    elif re.fullmatch(_GROUPED, number):
        number = number.replace(".", "")
    power = float("1" + (match["exponent"] or ""))
    scale = power * MAGNITUDES.get((match["suffix"] or "").lower(), 1.0)
    return (float(number.replace(",", ".")) + (0.5 if match["and_half"] else 0.0)) * scale, scale


def _powers(match: re.Match[str]) -> tuple[float | None, float]:
    if match["power"]:
        scale = 10.0 ** int(match["power"])
        return float(match["times"] or 1) * scale, scale
    scale = MAGNITUDES[match["suffix"].lower()]
    whole = int(match["whole"])
    return ((int(match["ones"] or 0) + int(match["part"]) / whole) * scale if whole else None), scale


def _words(match: re.Match[str]) -> tuple[float | None, float]:
    if match["single"]:
        return SINGLE[match["single"].lower()], 1.0
    if match["fraction"]:
        parts = re.findall(r"[a-z]+", match["fraction"].lower())
        share = next(FRACTIONS[part] for part in parts if part in FRACTIONS)
        times = {"two": 2, "three": 3}.get(parts[0], 1)
        of = (SCALES | MAGNITUDES)[match["of"].lower()]
        return times * share * of, of
    return _spelled(re.findall(r"[a-z]+", match["words"].lower()))


def _spelled(words: list[str]) -> tuple[float | None, float]:
    """Value of number words, and the thousand or more that was among them."""
    total, current, decimal, said = 0.0, 0.0, 0.0, 1.0
    for word in words:
        if word == "point":
            decimal = 0.1
        elif word in SCALES:
            if SCALES[word] <= 100:
                current = (current or 1) * SCALES[word]
            else:
                total, current, said, decimal = total + (current or 1) * SCALES[word], 0.0, SCALES[word], 0.0
        elif word == "half":
            total, current = (total + 0.5 * said, current) if total else (total, current + 0.5)
        elif word in UNITS or word in TENS:
            number = UNITS.get(word, TENS.get(word, 0))
            current, decimal = (current + number * decimal, decimal / 10) if decimal else (current + number, 0.0)
    return total + current, said


VALUES = {_POWERS: _powers, _DIGITS: _digits, _WORDS: _words}  # of a match: the number, and what was said beside it


# ---- writing --------------------------------------------------------------------------------------------------------
SPOKEN = {  # millions
    0.1: ["a hundred thousand"], 0.2: ["two hundred thousand", "a fifth of a million"],
    0.25: ["a quarter of a million"], 0.3: ["three hundred thousand", "a third of a million"],
    0.4: ["four hundred thousand"], 0.5: ["half a million"], 0.75: ["three quarters of a million"],
    1: ["a million", "1 million"], 20: ["twenty million"], 30: ["thirty million"], 40: ["forty million"],
    50: ["fifty million"], 100: ["a hundred million", "one hundred million"],
}  # fmt: skip


def beyond(most: int, random: Random) -> int:
    """A count above the most that there can be: by little, or one of those that people say to exaggerate."""
    if random.random() < 0.6:
        return most + random.randint(1, 6)
    return max(most + 1, random.randint(1, 12) * 10 ** random.randint(1, 4))


def small(number: int, random: Random) -> str:
    """A count, as a word or in digits; round ones also with the scale as a word."""
    forms = [f"{number}"] if number < 1000 else [f"{number}", f"{number:,}"]
    if number < len(SMALL):
        forms.append(SMALL[number])
    for word, scale in (("hundred", 100), ("thousand", 1000)):
        if number % scale == 0 and 0 < number // scale < len(SMALL):
            forms.append(f"{SMALL[number // scale]} {word}")
    return random.choice(forms)


def small_number(value: float, random: Random) -> str:
    """A count, sometimes as a couple, a pair or a trio."""
    if value in GROUPS and random.random() < 0.06:
        return random.choice(GROUPS[value])
    if value == 1 and random.random() < 0.1:
        return "a single"
    return small(int(value), random)


def rounded(value: float, random: Random) -> float:
    """A number as people say it, with one to three digits that count."""
    return float(f"{value:.{random.choice([1, 2, 2, 3])}g}")


def large_number(value: float, random: Random, unit: str = "") -> str:
    """Millions in one of the ways in which they are written; of operations the million may be left out."""
    absolute = round(value * 1e6)
    forms = [f"{value:g}M", f"{value:g} million", f"{value:g}m", f"{value:g} M", f"{absolute}", f"{absolute:,}"]
    if value < 1:
        forms += 2 * [f"{1000 * value:g}{thousand}" for thousand in ("k", "K", " thousand", " k")]
    if value >= 10:
        forms += [*forms[:2], f"{value / 1000:g}G", f"{value / 1000:g} billion", f"{value:g}e6"]
    if value == int(value) and 0 < value <= 12:
        forms.append(f"{SMALL[int(value)]} million")
    if unit.lower() in ("flops", "macs", "flop", "madds"):
        forms += [f"{value:g} M", f"{value:g}M", f"{value:g}"]
    return random.choice(forms + SPOKEN.get(value, []))
