"""The language: the forms of phrases in `language.yaml`, those that are kept from training, and draws among them."""

from __future__ import annotations

import re
import zlib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

SOURCE = Path(__file__).parent / "language.yaml"
HELD_OUT = 0.15  # share of phrases, and of nouns, that are kept from training
USUAL = 4  # phrases that a list begins with, which are said most: none of them is held out
LEAST_HELD = 6  # of a list with fewer phrases none is held out


@cache
def language() -> dict[str, Any]:
    """The phrases of `language.yaml`."""
    return yaml.safe_load(SOURCE.read_text(encoding="utf-8"))


def is_held_out(phrase: str, share: float = HELD_OUT) -> bool:
    """Whether a phrase, or a combination, is kept from training; decided by itself alone."""
    return zlib.crc32(phrase.encode()) % 1000 < 1000 * share


def kept_back(forms: list[str]) -> list[str]:
    """Those of a list that are kept from training, none of what is said most among them."""
    return [form for form in forms[USUAL:] if is_held_out(form)] if len(forms) >= LEAST_HELD else []


@cache
def bank(held_out: str) -> dict[str, Any]:
    """The language with, in each of its lists, the phrases that `Phrases` asks for, all of them if there are few."""

    def kept(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: kept(value) for key, value in part.items()}
        forms = [str(form) for form in part]
        if held_out == "all":
            return forms
        held = kept_back(forms)
        return (held or forms) if held_out == "phrases" else [form for form in forms if form not in held]

    return kept(language())


def singular_plural(noun: str) -> tuple[str, str]:
    """Both forms of a noun of the language; alike where it has one."""
    singular, _, plural = noun.partition("/")
    return singular, plural or singular


def usual(forms: list[Any], random: Random) -> Any:
    """One of a list that begins with what is said most."""
    return forms[int(len(forms) * random.random() ** 2)]


def alternative(form: str, random: Random) -> str:
    """One choice of each (a|b)."""
    while match := re.search(r"\(([^()|]*(?:\|[^()|]*)+)\)", form):
        form = form[: match.start()] + random.choice(match[1].split("|")) + form[match.end() :]
    return form
