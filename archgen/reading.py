"""Reading: requests as sequences of tokens that a decoder writes, under a grammar that admits nothing else."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from archgen.caption import Text
from archgen.numerals import NO_SUFFIX, Mention, find_numbers
from archgen.vocabulary import ATTRIBUTES, COMPARE, MILLIONS, SUMS, WISHES, Clause, Predicate, Request, check_words

NUMBERS = 8  # of a text that can be pointed at
MARKERS = [f"[unused{index}]" for index in range(NUMBERS)]  # tokens that stand before the numbers of a text
SPACES = {name: f"[unused{NUMBERS + index}]" for index, name in enumerate(ATTRIBUTES)}  # and before the text
ALL = list(dict.fromkeys([*(name for one in ATTRIBUTES.values() for name in one), *SUMS, *WISHES]))
COSTS = ("depth", "params", "flops", *WISHES)  # what percentiles go with
QUANTILES = [f"q{percent}" for percent in (10, 20, 30, 40, 60, 80, 95)]
LITERALS = [str(number) for number in range(10)]
POINTERS = [f"#{index}" for index in range(NUMBERS)]
PAD, START, END, UNRELATED, UNKNOWN = "<pad>", "<start>", "<end>", "unrelated", "unknown"
HOW, WHETHER = "how", "whether"
KINDS = (UNRELATED, UNKNOWN, HOW, WHETHER)  # of texts that are no requests, by their first token
TOKENS = [PAD, START, END, *KINDS, "+", "|", ";", *COMPARE, *ALL, *QUANTILES, *LITERALS, *POINTERS]
INDEX = {token: index for index, token in enumerate(TOKENS)}
POOL = re.compile(r"\bpool\b", re.IGNORECASE)  # to the text encoder one to swim in, while pools may be operations
_NUMBER = r"\d+(?:\.\d+)?(?:e\+?\d+)?[kmgb]?"
INTERVAL = re.compile(
    rf"(\[{_NUMBER}|[({{](?!\d+,\d{{3}}\b){_NUMBER}),({_NUMBER}[\])}}])", re.IGNORECASE
)  # two numbers
LISTED = re.compile(  # 1,2 or 3, but neither 1,5 million nor 2,50
    r"(?<![\w.,])(?:[1-9](?:,[1-9])+|\d(?:,\d){2,})(?![\w.])(?!,\d)"
    rf"{NO_SUFFIX}(?!\s?m?(?:flop|mac|mult|param|weight))",
    re.IGNORECASE,
)
MIXED = re.compile(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])")  # 2\u00bd, which normalization would make 21/2
SIGNS = {0xD7: "x", 0x2265: ">=", 0x2264: "<=", 0x2260: "!=", 0xB2: "^2", 0xB3: "^3"}
SIGNS |= {0x2074 + power: f"^{4 + power}" for power in range(6)}  # all that normalization would keep or lose
LONGEST = 48  # tokens of a request
MOST = 200_000  # that people ask for of what is counted, if only to exaggerate; larger numbers are sizes


class Unreadable(ValueError):
    """A request has no sequence of tokens: too many numbers, or too long."""


# ---- texts ----------------------------------------------------------------------------------------------------------
def prepared(text: str, space: str) -> tuple[str, list[Mention]]:
    """The text as the encoder sees it, its numbers marked and written alike, and the numbers.

    Args:
        text: Whatever a user typed.
        space: Name of the space that is spoken of.

    Raises:
        ValueError: If there are no words for the space.
    """
    check_words(space)
    text = normalized(text)
    text = INTERVAL.sub(r"\1, \2", POOL.sub("pools", re.sub(r"\[unused\d+\]", " ", text)))
    text = LISTED.sub(lambda numbers: numbers[0].replace(",", ", "), text)
    numbers = find_numbers(text)[:NUMBERS]
    result, position = f"{SPACES[space]} ", 0
    for marker, number in zip(MARKERS, numbers, strict=False):
        result += f"{text[position : number.start]} {marker} {_canonical(number)} "
        position = number.end
    return result + text[position:], numbers


def normalized(text: str) -> str:
    """The text in signs that are read, without control characters."""
    text = unicodedata.normalize("NFKC", MIXED.sub(" ", text.translate(SIGNS)))
    return "".join(" " if unicodedata.category(letter)[0] == "C" else letter for letter in text)


def _canonical(number: Mention) -> str:
    if not number.magnitude and number.value < 1000:
        return f"{number.value:g}"
    scale, name = (
        (1e9, "billion") if number.value >= 1e9 else (1e6, "million") if number.value >= 1e6 else (1e3, "thousand")
    )
    return f"{number.value / scale:.4g} {name}"


# ---- requests as tokens ---------------------------------------------------------------------------------------------
def spelled(text: Text) -> list[str]:
    """The tokens of what a text means.

    Raises:
        Unreadable: If there are none.
    """
    if text.kind in (UNKNOWN, UNRELATED):
        return [text.kind]
    if text.kind == HOW:
        return [HOW, *" + ".join(text.request[0][0].left).split()]
    tokens, pointers = [WHETHER] if text.kind == WHETHER else [], iter(text.pointers)
    for clause in text.request:
        for place, one in enumerate(clause):
            tokens += ["|" if place else ";"] if tokens and tokens[-1] != WHETHER else []
            tokens += [*" + ".join(one.left).split(), one.compare]
            pointer = next(pointers)
            if pointer is not None:
                tokens.append(f"#{pointer}")
            elif isinstance(one.right, tuple):
                tokens += " + ".join(one.right).split()
            else:
                tokens.append(one.right if isinstance(one.right, str) else f"{one.right:g}")
    if len(tokens) > LONGEST - 2 or any(token not in INDEX for token in tokens):
        raise Unreadable(f"no tokens for {text.text!r}")
    return tokens


def requested(kind: str, tokens: list[str], numbers: list[Mention]) -> Request:
    """What tokens of some kind ask for or about."""
    if kind in (UNKNOWN, UNRELATED):
        return ()
    if kind == HOW:
        return ((Predicate(tuple(tokens[1::2]), ">=", 0.0),),)
    return understood(tokens[kind == WHETHER :], numbers)


def understood(tokens: list[str], numbers: list[Mention]) -> Request:
    """The request that tokens spell; the inverse of `spelled`.

    Args:
        tokens: As the grammar admits them, without start, kind and end.
        numbers: Of the text.
    """
    clauses: list[Clause] = []
    for part in " ".join(tokens).split(";"):
        alternatives = [_predicate(one.split(), numbers) for one in part.split("|") if one.strip()]
        clauses += [tuple(alternatives)] if alternatives else []
    return tuple(clauses)


def _predicate(tokens: list[str], numbers: list[Mention]) -> Predicate:
    place = next(index for index, token in enumerate(tokens) if token in COMPARE)
    left, right = tuple(tokens[:place:2]), tokens[place + 1 :]
    value: float | str | tuple[str, ...]
    if right[0].startswith("#"):
        number = numbers[int(right[0][1:])]
        value = number.in_millions() if left[0] in MILLIONS else number.value
    elif right[0] in LITERALS:
        value = float(right[0])
    else:
        value = right[0] if right[0] in QUANTILES else tuple(right[::2])
    return Predicate(left, tokens[place], value)


def plausible(request: Request) -> bool:
    """Whether no number is far too large for what it is about."""
    parts = [one for clause in request for one in clause]
    return all(one.left[0] in MILLIONS or not isinstance(one.right, float) or one.right <= MOST for one in parts)


# ---- the grammar ----------------------------------------------------------------------------------------------------
STATES = 15
BEGIN, LEFT_COST, LEFT, LEFT_PLUS, AGAINST_COST, AGAINST, RIGHT = range(7)
RIGHT_PLUS, VALUE, NEXT, LAST, DONE, ASKED, ASKED_PLUS, QUESTION = range(7, STATES)


@cache
def transitions() -> Int[Tensor, "states tokens"]:
    """State after each token in each state; -1 where the token is not admitted."""
    table = torch.full((STATES, len(TOKENS)), -1)

    def allow(state: int, tokens: list[str], following: int) -> None:
        table[state, [INDEX[token] for token in tokens]] = following

    others = [name for name in ALL if name not in COSTS]
    for state in (BEGIN, NEXT):
        allow(state, list(COSTS), LEFT_COST)
        allow(state, others, LEFT)
    allow(BEGIN, [UNRELATED, UNKNOWN], LAST)
    allow(BEGIN, [END], DONE)
    for state in (BEGIN, QUESTION):
        allow(state, [WHETHER], NEXT)
        allow(state, [HOW], ASKED_PLUS)
    allow(ASKED_PLUS, [name for name in ALL if name not in WISHES], ASKED)
    allow(ASKED, ["+"], ASKED_PLUS)
    allow(ASKED, [END], DONE)
    allow(LEFT_COST, list(COMPARE), AGAINST_COST)
    allow(LEFT, [sign for sign in COMPARE if sign != "~"], AGAINST)
    allow(LEFT, ["+"], LEFT_PLUS)
    allow(LEFT_PLUS, others, LEFT)
    allow(AGAINST_COST, [*QUANTILES, *LITERALS, *POINTERS], VALUE)
    allow(AGAINST, [*LITERALS, *POINTERS], VALUE)
    allow(AGAINST, others, RIGHT)
    allow(RIGHT, ["+"], RIGHT_PLUS)
    allow(RIGHT_PLUS, others, RIGHT)
    for state in (RIGHT, VALUE):
        allow(state, ["|", ";"], NEXT)
        allow(state, [END], DONE)
    allow(LAST, [END], DONE)
    allow(DONE, [PAD], DONE)
    return table


def admitted(space: str, numbers: int) -> Bool[Tensor, " tokens"]:
    """Which tokens can be used of a text with so many numbers, in a space."""
    known = ATTRIBUTES[space]
    own = [*known, *(name for name, parts in SUMS.items() if set(parts) <= set(known)), *WISHES]
    result = torch.ones(len(TOKENS), dtype=torch.bool)
    result[[INDEX[name] for name in ALL if name not in own]] = False
    result[[INDEX[name] for name in POINTERS[numbers:]]] = False
    return result
