"""Spelling: slips of the keyboard in what users type, set right towards the words of the language."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache

from archgen.language import SOURCE
from archgen.numerals import FRACTIONS, MAGNITUDES, SCALES, SINGLE, TENS, UNITS

SHORTEST = 3  # letters; shorter words are abbreviations
FRAGMENT = 4  # letters below which words of an encoder's vocabulary are as likely to be pieces of others
TWO_SLIPS = 8  # letters of a word that may have two slips
SAID = 4  # times that a word is in the language before others are taken for it
NUMBERS = 300  # times that words for numbers count as said; the language has slots for them
NAME = re.compile(r"[a-z][A-Z]|[A-Z](?:Net|NeXt)$")  # EfficientNet, UNet
WORD = re.compile(r"(?<![\w'\u2019])[a-z]+(?![\w'\u2019])", re.IGNORECASE)
ENDINGS = re.compile(r"(?:nt|re|ve|ll|s)$")  # dont, theyre, poolings
SHORT = {"twoo": "two", "tow": "two", "towo": "two", "oen": "one", "onee": "one", "sixx": "six"}  # slips in numbers
UNITS_OF_COST = re.compile(r"[kmgt]+(?:flops?|macs?|ops?|params?|adds?|bytes?)")


@cache
def said() -> Counter[str]:
    """How often each word is in the language, which is not parsed for it: that takes a second."""
    counts = Counter(re.findall(r"[a-z]+", SOURCE.read_text(encoding="utf-8").lower()))
    return counts + Counter(dict.fromkeys([*UNITS, *TENS, *SCALES, *SINGLE, *FRACTIONS], NUMBERS))


class Speller:
    """Sets slips right.

    Args:
        words: What is right beside the words of the language, such as the vocabulary of an encoder.
    """

    def __init__(self, words: Iterable[str]):
        self.right = {*said(), *MAGNITUDES, *(word for word in words if len(word) >= FRAGMENT)}
        self.choices = [word for word, count in said().items() if len(word) > SHORTEST and count >= SAID]

    def corrected(self, text: str) -> tuple[str, dict[str, str]]:
        """The text with slips set right, and what was taken for what.

        A word that is not known is taken for one of the language that is one slip away, in long words two: a letter
        left out, doubled, wrong, or swapped with the next, or a space left out. Of several it is what is said most.
        """
        changes: dict[str, str] = {}

        def right(match: re.Match[str]) -> str:
            near = SHORT.get(match[0].lower())
            if near is None and not (self.knows(match[0].lower()) or NAME.search(match[0])):
                near = self._nearest(match[0].lower())
            if near is None:
                return match[0]
            return changes.setdefault(match[0], near)

        return WORD.sub(right, text), changes

    def knows(self, word: str) -> bool:
        """Whether a word, in small letters, is left as it is."""
        stem = ENDINGS.sub("", word)
        return (
            len(word) < SHORTEST
            or word in self.right
            or (len(stem) >= SHORTEST and stem in self.right)
            or UNITS_OF_COST.fullmatch(word) is not None
        )

    def _nearest(self, word: str) -> str | None:
        from rapidfuzz import process  # not needed for most texts
        from rapidfuzz.distance import OSA

        counts, word = said(), re.sub(r"(.)\1{2,}", r"\1\1", word)
        slips = 2 if len(word) >= TWO_SLIPS else 1
        near = process.extract(word, self.choices, scorer=OSA.distance, score_cutoff=slips, limit=None)
        options = [(distance, -counts[choice], choice) for choice, distance, _ in near]
        for at in range(2, len(word) - 1):
            least = min(counts[word[:at]], counts[word[at:]])
            if least >= SAID:
                options.append((1, -least, f"{word[:at]} {word[at:]}"))
        return min(options)[2] if options else None
