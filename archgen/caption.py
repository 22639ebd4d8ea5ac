"""Captions: requests for architectures in words, with what they mean.

Every text carries its meaning as predicates (see `vocabulary.py`), from which it is known exactly which architectures
it is true of. What they are made of is in `phrases.py` and the files that it draws from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from random import Random

from archgen.language import alternative, is_held_out, usual
from archgen.numerals import find_numbers, small_number
from archgen.phrases import Phrases
from archgen.slots import END, MIDDLE, START, Number, Phrase
from archgen.vocabulary import MILLIONS, Facts, Predicate, Request
from archgen.wholes import whole

PAIRS_HELD_OUT = 0.05  # share of pairs of kinds of phrases that are kept from training
TYPOS, CASES, SHORT = 0.15, 0.35, 0.06  # shares of texts with slips of the keyboard, in unusual case, in shorthand
ASKING = re.compile(r"(?i)(can|could|may|is|are|do|does|would|any|got|how|what) ")  # a request as a question
SHORTHAND = {
    "and": ["n", "&", "+", "nd"], "with": ["w/", "w"], "without": ["w/o"], "be": ["b"], "please": ["plz", "pls"],
    "you": ["u", "ya"], "your": ["ur"], "are": ["r"], "want to": ["wanna"], "has to": ["gotta"], "must": ["gotta"],
    "because": ["cuz", "bc"], "something": ["smth", "sth"], "give me": ["gimme"], "I'd": ["id"], "don't": ["dont"],
    "network": ["nn", "net"], "architecture": ["arch"], "at least": ["min", ">="], "at most": ["max", "<="],
    "number of": ["num", "#"], "parameters": ["params"], "really": ["rly"], "the": ["da", "the"],
}  # fmt: skip
STORIES, OPENINGS = 0.4, 0.65  # shares of requests with something else around, and with a beginning
WANTED = 0.5  # share of the loose requests that begin with what it has, which say first that it is wanted
ASIDES = 0.06  # share of the requests with a beginning that say something unrelated, too
TALES = 0.07  # share of the requests that come with a tale
AMOUNTS = ("{}", "{}", "{}", "{}k", "{} thousand", "{},000", "{}00", "{} million")
MASHED = 0.05  # share of texts that are no requests that are no words either
WHOLE = 0.3  # share of requests that were written in one piece
CONTRARY = 0.05  # share of requests that contradict themselves on purpose
CLASHING = 0.2  # share that is kept of the requests whose phrases contradict each other by chance
PREDICATES = (0.27, 0.37, 0.25, 0.11)  # shares of requests with one to four phrases
STACKED = 0.18  # share of those with several that have two or three adjectives


@dataclass(frozen=True)
class Text:
    """A text and what it means.

    Attributes:
        text: The words.
        request: Predicates that hold of exactly the architectures it is true of.
        pointers: For each predicate, in order, the position among the numbers of the text of the one it takes.
        kind: `request`, `caption` (describes an architecture), `unknown` (asks for what the space has no word for),
            `unrelated`, or a question about an architecture: `how` many or much of what the left side of the request
            names, or `whether` it is met.
        phrases: Which forms it is made of.
    """

    text: str
    request: Request = ()
    pointers: tuple[int | None, ...] = ()
    kind: str = "request"
    phrases: frozenset[str] = field(default_factory=frozenset)


class Writer:
    """Writes requests for the architectures of one space.

    Args:
        facts: Of the space.
        held_out: `without` phrases and pairs of kinds of phrases that are kept from training; `phrases`, only such
            phrases where there are any; `pairs`, at least one such pair in every request; or `all`.
    """

    def __init__(self, facts: Facts, held_out: str = "without"):
        self.facts, self.held_out, self.phrases = facts, held_out, Phrases(facts, held_out)
        self.bank = self.phrases.bank

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
            phrases = self.phrases.draw(random, count)
            if kinds is None and not contrary and self.held_out != "pairs" and random.random() < WHOLE:
                phrases, count = [whole(self.phrases, random)], 2  # of its parts, which may contradict each other
            elif count > 1 and random.random() < STACKED:
                stacked = 3 if count > 2 and random.random() < 0.4 else 2
                phrases[:stacked] = [self.phrases.adjective(random) for _ in range(stacked)]
            if not self._admits(phrases):
                continue
            named = [
                {name for clause in phrase.clauses for names, _, _ in clause for name in names} for phrase in phrases
            ]
            repeated = sum(map(len, named)) > len(set().union(*named))
            if contrary > repeated or (repeated and not contrary and random.random() > 0.3):
                continue
            if (text := self._compose(phrases, random)) is None:
                continue
            clashes = not self.facts.holds(text.request, self.facts.table).any()
            if clashes is contrary or count == 1 or (not repeated and random.random() < CLASHING):
                return text
        raise RuntimeError("no request could be written")

    def _admits(self, phrases: list[Phrase]) -> bool:
        """Whether these kinds of phrases may stand beside each other."""
        pairs = combinations(sorted(phrase.key for phrase in phrases), 2)
        held = any(is_held_out(" & ".join(pair), PAIRS_HELD_OUT) for pair in pairs)
        return {"without": not held, "pairs": held}.get(self.held_out, True)

    def _compose(self, phrases: list[Phrase], random: Random, head: str = "") -> Text | None:
        """Words in some order, about something called so; None where a number cannot be read back."""
        style, alone = random.random(), phrases[0].role == "whole"
        random.shuffle(phrases)
        head = head or usual(self.bank["frame"]["head"], random)
        if alone:
            raw = phrases[0].text
        elif style < 0.55:
            raw = self._noun_phrase(head, phrases, random)
        elif style < 0.6:
            raw = self._list(head, phrases, random)
        else:
            raw = self._telegram(head, phrases, random, opened=style > 0.85)
        story = random.choice(self.bank["frame"]["story"]) if random.random() < STORIES else ""
        plain = style < 0.55 and not alone  # what is wanted is said, whatever else is
        if plain and raw[0] != " " and random.random() < ASIDES:
            story = self._aside(random)
        elif random.random() < TALES:
            story = self._tale(random)
        if story and random.random() < 0.7:
            raw = f"{raw}{random.choice([' ', ', ', '. '])}{story}"
        elif story:
            raw = f"{story}{random.choice([', ', ': ', '. '])}{raw}"
        if ASKING.match(raw) and random.random() < 0.6:
            raw += "?"
        elif random.random() < 0.2:
            raw += random.choice([".", "!", "?", " please", " pls", " thx"])
        return self._finished(raw, phrases, random)

    def _noun_phrase(self, head: str, phrases: list[Phrase], random: Random) -> str:
        """Adjectives, what is asked for, and what it has."""
        adjectives = [phrase.text for phrase in phrases if phrase.role == "adj"]
        others = sorted((one for one in phrases if one.role != "adj"), key=lambda one: one.role == "say")
        between = random.choice([" ", " ", ", ", ", ", " and ", " but "] if len(adjectives) == 2 else [" ", ", "])
        opening = usual(self.bank["frame"]["open"], random) if random.random() < OPENINGS else ""
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
        words = self.bank["frame"]
        mark = random.choice(["- ", "* ", "\u2022 ", "1. ", "(1) ", "1) "])
        lines = [mark.replace("1", str(place)) + phrase.text for place, phrase in enumerate(phrases, 1)]
        title = random.choice([usual(words["title"], random), f"{usual(words['open'], random)} {head}:"])
        return f"{title}{random.choice([' ', chr(10)])}{random.choice([' ', chr(10), '; ']).join(lines)}"

    def _telegram(self, head: str, phrases: list[Phrase], random: Random, opened: bool) -> str:
        """Phrases in any order, loosely joined."""
        words = self.bank["frame"]
        join = usual(words["join"], random)
        parts = [
            f"{phrase.text} {head}" if phrase.role == "adj" and random.random() < 0.4 else phrase.text
            for phrase in phrases
        ]
        if opened and phrases[0].role == "post":
            parts[0] = f"{usual(words['open'], random)} {head} {parts[0]}"
        elif phrases[0].role == "np" and random.random() < WANTED:
            parts[0] = f"{random.choice(words['want'])} {parts[0]}"
        raw = parts[0]
        for part in parts[1:]:
            raw += random.choice([join, join, usual(words["join"], random)]) + part
        return raw

    def _finished(self, raw: str, phrases: list[Phrase], random: Random, kind: str = "request") -> Text | None:
        raw = re.sub(r"\ba (?=(\x01\d+\x02)?[aeiouAEIOU])", "an ", re.sub(r"\s+", " ", raw).strip())
        phrases = sorted(phrases, key=lambda phrase: raw.find(_beginning(phrase.text)))
        raw = _noisy(raw, random)
        text, spans = _unmarked(raw)
        mentions = find_numbers(text)
        place = {}
        for mark, (start, end) in spans.items():
            inside = [i for i, one in enumerate(mentions) if one.start < end and start < one.end]
            if len(inside) != 1 or mentions[inside[0]].start < start or mentions[inside[0]].end > end:
                return None  # as in "three three-layer stages"
            place[mark] = inside[0]
        request, pointers = [], []
        for phrase in phrases:
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
        words = self.bank["frame"]
        text = random.choice(words["any"])
        if random.random() < 0.4:
            text = f"{random.choice(words['open'])} {random.choice(words['head'])} {random.choice(words['story'])}"
        return self._finished(text, [], random)

    def question(self, random: Random) -> Text:
        """A question about an architecture that is there."""
        bank = self.bank["questions"]
        if random.random() < 0.4:
            return self._whether(bank["whether"], random)
        costs = {"depth": 2, "params": 2, "flops": 2}
        weights = dict.fromkeys(self.phrases.counted, 1) | costs
        (attribute,) = random.choices([*weights], [*weights.values()])
        form = random.choice(bank[attribute if attribute in costs else "how"])
        if attribute in MILLIONS:
            form = form.replace("{u}", str(random.choice(self.bank[attribute]["units"])))
        elif attribute not in costs:
            form = self.phrases.fill(form, random, attribute)
        asked = Phrase("say", form, [[((attribute,), ">=", 0.0)]], f"how {attribute}")
        text = self._finished(form, [asked], random)
        return replace(text, kind="how")

    def _whether(self, forms: list[str], random: Random) -> Text:
        while True:
            (phrase,) = self.phrases.draw(random)
            if phrase.role == "np" and phrase.clauses:
                raw = random.choice(forms).replace("{x}", phrase.text)
                if (text := self._finished(raw, [phrase], random)) is not None:
                    return replace(text, kind="whether")

    def unknown(self, random: Random) -> Text:
        """A request for what the space has no word for, perhaps beside what it has."""
        others = self.phrases.draw(random, random.choice([0, 1, 1, 2]))
        if random.random() < 0.15:  # by what it is called
            text = self._named(random.choice(self.bank["unknown_heads"]), others, random)
            return replace(text, request=(), pointers=(), kind="unknown")
        if random.random() < 0.35:
            phrase = self.phrases.elsewhere(random)
        else:
            lacking = random.choice(self.phrases.lacking(random)).replace(
                "{n}", str(random.choice([2, 3, 4, 8, 12, 16]))
            )
            forms = self.bank["unknown_frames"] if random.random() < 0.5 else ["with {x}", "{x}", "using {x}"]
            template = alternative(random.choice(forms), random)
            phrase = Phrase("post", template.replace("{x}", lacking), [], "unknown")
        text = self._compose([phrase, *others], random)
        return self.unknown(random) if text is None else replace(text, request=(), pointers=(), kind="unknown")

    def _named(self, head: str, phrases: list[Phrase], random: Random) -> Text:
        """A request for what is called so."""
        while True:
            if phrases:
                text = self._compose(phrases, random, head)
            else:
                opening = usual(self.bank["frame"]["open"], random) or "a"
                text = self._finished(f"{opening} {head}", [], random)
            if text is not None and head.lower()[:5] in text.text.lower():
                return text
            phrases = []

    def unrelated(self, random: Random) -> Text:
        """A text that asks for no architecture."""
        if random.random() < MASHED:
            return Text(_mashed(random), kind="unrelated", phrases=frozenset(["unrelated"]))
        text = self._aside(random)
        if random.random() < 0.35:
            text += random.choice([" ", ". ", ", "]) + self._aside(random)
        if random.random() < 0.15:
            text = f"{random.choice(self.bank['frame']['story'])} {text}"
        return Text(_noisy(text, random).strip() or "?", kind="unrelated", phrases=frozenset(["unrelated"]))

    def _tale(self, random: Random) -> str:
        """Some sentences about whoever asks, with numbers that are not asked for."""
        parts = random.sample(self.bank["frame"]["tale"], random.choice([1, 1, 1, 2, 2, 3]))
        tale = random.choice([". ", ". ", ", ", "; "]).join(alternative(part, random) for part in parts)
        numbers = {
            "{k}": lambda: small_number(random.randint(1, 12), random),
            "{y}": lambda: str(random.randint(1990, 2027)),
            "{b}": lambda: random.choice(AMOUNTS).format(
                random.choice([2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 50, 60, 80, 128, 256, 400, 512])
            ),
        }
        for slot, number in numbers.items():
            while slot in tale:
                tale = tale.replace(slot, number(), 1)
        return tale

    def _aside(self, random: Random) -> str:
        """Something that has nothing to do with architectures."""
        text = alternative(str(random.choice(self.bank["unrelated"]["texts"])), random)
        while "{o}" in text:
            text = text.replace("{o}", random.choice(self.bank["unrelated"]["objects"]), 1)
        while "{n}" in text:
            text = text.replace("{n}", small_number(random.randint(0, 12), random), 1)
        return text


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


def _mashed(random: Random) -> str:
    """What fingers on a keyboard make without a thought."""
    rows = ["qwertyuiop", "asdfghjkl;", "zxcvbnm,.", "1234567890", "abcdefghijklmnopqrstuvwxyz"]
    words = []
    for _ in range(random.randint(1, 6)):
        row, start, length = random.choice(rows), random.randrange(6), random.randint(2, 8)
        word = row[start : start + length] if random.random() < 0.5 else "".join(random.choices(row, k=length))
        words.append(word * random.choice([1, 1, 1, 2]))
    return random.choice(["", " ", " "]).join(words)


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


def _beginning(text: str) -> str:
    """What a phrase begins with: to the end of its first number, whose mark no other has, or twelve letters."""
    return text.partition(END)[0] if START in text else text[:12]


def _unmarked(raw: str) -> tuple[str, dict[int, tuple[int, int]]]:
    """The text without marks, and where each marked number is."""
    text, spans, position = "", {}, 0
    for match in re.finditer(rf"{START}(\d+){MIDDLE}([^{END}]*){END}", raw):
        text += raw[position : match.start()]
        spans[int(match[1])] = (len(text), len(text) + len(match[2]))
        text += match[2]
        position = match.end()
    return text + raw[position:], spans
