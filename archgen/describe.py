"""Architectures in words: what is true of them, and how they are wired."""

from __future__ import annotations

from operator import attrgetter, itemgetter
from random import Random

from archgen.caption import Text
from archgen.graph import Architecture, Node
from archgen.language import language, singular_plural
from archgen.numerals import SMALL, Mention, find_numbers, small
from archgen.reading import LITERALS, NUMBERS
from archgen.vocabulary import MILLIONS, NO_PATH, Facts, Predicate

MOST = 11  # predicates that are read in a description
WIRING_ALONE = 0.3  # share of varied descriptions that say nothing but how the operations are wired
LABELS = {
    "nor_conv_3x3": "3x3 convolution", "nor_conv_1x1": "1x1 convolution", "avg_pool_3x3": "average pooling",
    "skip_connect": "skip connection", "none": "empty edge", "conv3x3-bn-relu": "3x3 convolution",
    "conv1x1-bn-relu": "1x1 convolution", "maxpool3x3": "max pooling",
}  # fmt: skip


def describe(architecture: Architecture, facts: Facts) -> str:
    """What is true of an architecture, in words: counts, depth, size, compute, and how it is wired.

    Args:
        architecture: What to describe.
        facts: Of its space.
    """
    return described(architecture, facts).text


def _millions(value: float) -> str:
    """With three digits that count, without an exponent."""
    return f"{float(f'{value:.3g}'):,g} million"


def described(architecture: Architecture, facts: Facts, random: Random | None = None) -> Text:
    """As `describe`, with the predicates that a reader finds in the words.

    Args:
        architecture: What to describe.
        facts: Of its space.
        random: Chooses words, order and what is left out; everything in a fixed order if absent.
    """
    values = {name: value.item() for name, value in facts.of(facts.space.encode(architecture)[None]).items()}
    counted = [name for name in values if name not in ("depth", *MILLIONS)]
    counts = [(name, _counted(name, int(values[name]), facts, random)) for name in counted]
    depth = NO_PATH if values["depth"] < 0 else f"depth {values['depth']:.0f}"
    costs = {"depth": depth, "params": f"{_millions(values['params'])} parameters",
             "flops": f"{_millions(values['flops'])} multiply-adds"}  # fmt: skip
    begin = "It has"
    if random is not None:
        random.shuffle(counts)
        begin = random.choice([begin, "A cell with", "A network of", "Made of", "With"])
    wired = wiring(architecture), dict.fromkeys(counted)
    sentences = [
        (f"{begin} {_listed([phrase for _, phrase in counts])}.", dict(counts)),
        (f"It has {_listed([*costs.values()])}.", costs),
        wired,
    ]
    if random is not None:
        random.shuffle(sentences)
        some = [one for one in sentences if random.random() < 0.7] or sentences[:1]
        sentences = [wired] if random.random() < WIRING_ALONE else some
    text = " ".join(sentence for sentence, _ in sentences)
    phrases: dict[str, str | None] = {}
    for _, words in sentences:
        phrases |= {name: words[name] or phrases.get(name) for name in words}
    return _with_predicates(text, {name: (values[name], phrase) for name, phrase in phrases.items()})


def _with_predicates(text: str, said: dict[str, tuple[float, str | None]]) -> Text:
    """A description and what can be read in it: costs within a tenth, everything else exactly.

    Args:
        text: The description.
        said: For each attribute its value, and the words that say it, if a number in them does.
    """
    numbers = find_numbers(text)[:NUMBERS]
    found = []
    for name, (value, phrase) in said.items():
        start = len(text) if phrase is None else text.index(phrase)
        inside = [index for index, one in enumerate(numbers) if start <= one.start < start + len(phrase or "")]
        unit = Mention.in_millions if name in MILLIONS else attrgetter("value")
        pointer = next((index for index in inside if abs(unit(numbers[index]) - value) <= 0.01 * value), None)
        if pointer is not None or (name not in MILLIONS and 0 <= value < len(LITERALS)):
            found.append((start, Predicate((name,), "~" if name in MILLIONS else "==", value), pointer))
    found = sorted(found, key=itemgetter(0))[:MOST]
    return Text(text, tuple((one,) for _, one, _ in found), tuple(pointer for *_, pointer in found), kind="caption")


def wiring(architecture: Architecture) -> str:
    """Every operation of an architecture and what it works on, in words; of a chain just their order."""
    last = len(architecture.nodes) - 1
    name = {0: "the input", **{index: f"operation {index}" for index in range(1, last)}}
    sources = {index: [s for s, t in architecture.edges if t == index] for index in range(1, last + 1)}
    kinds = {index: _kind(architecture.nodes[index]) for index in range(1, last)}
    if all(sources[index] == [index - 1] for index in sources):
        return f"From input to output, one after the other: {'; '.join(kinds.values())}."
    on = {index: _listed([name[source] for source in found]) for index, found in sources.items()}
    parts = [f"{name[index]} is {kind} on {on[index]}" for index, kind in kinds.items()]
    return f"{'; '.join([*parts, f'the output takes {on[last]}'])}.".capitalize()


def _kind(node: Node) -> str:
    """An operation with its article, and its attributes."""
    kind = LABELS.get(node.op, node.op.replace("_", " "))
    details = [
        f"{'with' if value else 'without'} {key}" if isinstance(value, bool) else f"{key} {value}"
        for key, value in ((key.replace("_", " "), value) for key, value in node.attributes)
    ]
    article = "" if kind.endswith("pooling") else "an " if kind[0] in "aeiou" else "a "
    return f"{article}{kind}{': ' if details else ''}{', '.join(details)}"


def _counted(attribute: str, number: int, facts: Facts, random: Random | None) -> str:
    nouns = language()["nouns"]["maxpool" if attribute == "pool" and facts.space.name == "nasbench101" else attribute]
    singular, plural = singular_plural(nouns[0] if random is None else random.choice(nouns))
    words = (SMALL[number] if number < len(SMALL) else str(number)) if random is None else small(number, random)
    return f"{'no' if number == 0 else words} {singular if number == 1 else plural}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
