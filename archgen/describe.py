"""Architectures in words: what is true of them, and how they are wired."""

from __future__ import annotations

from random import Random

from archgen.caption import language, singular_plural
from archgen.graph import Architecture, Node
from archgen.numerals import SMALL, small
from archgen.vocabulary import MILLIONS, Facts

WIRING_ALONE = 0.3  # share of varied descriptions that say nothing but how the operations are wired
LABELS = {
    "nor_conv_3x3": "3x3 convolution", "nor_conv_1x1": "1x1 convolution", "avg_pool_3x3": "average pooling",
    "skip_connect": "skip connection", "none": "empty edge", "conv3x3-bn-relu": "3x3 convolution",
    "conv1x1-bn-relu": "1x1 convolution", "maxpool3x3": "max pooling",
}  # fmt: skip


def describe(architecture: Architecture, facts: Facts, random: Random | None = None) -> str:
    """What is true of an architecture, in words: counts, depth, size, compute, and how it is wired.

    Args:
        architecture: What to describe.
        facts: Of its space.
        random: Chooses words, order and what is left out; everything in a fixed order if absent.
    """
    values = {name: value.item() for name, value in facts.of(facts.space.encode(architecture)[None]).items()}
    counts = [_counted(name, int(values[name]), facts, random) for name in values if name not in ("depth", *MILLIONS)]
    depth = "no path from input to output" if values["depth"] < 0 else f"depth {values['depth']:.0f}"
    costs = [depth, f"{values['params']:.3g} million parameters", f"{values['flops']:.3g} million multiply-adds"]
    sentences = [f"It has {_listed(counts)}.", f"It has {_listed(costs)}.", wiring(architecture)]
    if random is not None:
        random.shuffle(counts)
        sentences[0] = (
            f"{random.choice(['It has', 'A cell with', 'A network of', 'Made of', 'With'])} {_listed(counts)}."
        )
        random.shuffle(sentences)
        if random.random() < WIRING_ALONE:
            return wiring(architecture)
        sentences = [one for one in sentences if random.random() < 0.7] or sentences[:1]
    return " ".join(sentences)


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
