"""Counts: phrases that say how much of one attribute there is, in all places or in each."""

from __future__ import annotations

import re
from random import Random

from archgen.meaning import ALL_OF
from archgen.numerals import beyond, large_number, small_number
from archgen.slots import BEYOND, Phrase, Slots


def count(of: Slots, random: Random) -> Phrase:
    """So many of one attribute: exactly, at least, at most, anything but, between two numbers, or one of two."""
    attribute = random.choice(list(of.counted))
    compare = random.choices(["==", ">=", "<=", ">", "<", "!=", "range", "either"], [34, 18, 16, 8, 8, 2, 9, 5])[0]
    role, form = of.form(random, of.bank["count"][compare])
    most = of.counted[attribute]
    low = 7 if attribute == "layers" else 0
    n = beyond(most, random) if random.random() < BEYOND else random.randint(low, most)
    m = n + random.randint(1, max(1, min(3, most + 2 - n)))
    return of.numeric(random, role, of.fill(form, random, attribute, n), (attribute,), compare, n, m, "count")


def revised(of: Slots, random: Random) -> Phrase:
    """A count, or a cost, that is taken back for another."""
    compare = random.choices(["==", ">=", "<="], [3, 2, 2])[0]
    if random.random() < 0.3:
        name = random.choice(["params", "flops"])
        compare = "<=" if compare == "==" else compare
        role, form = of.form(random, of.bank["revised_cost"][compare])
        n, m = of.two_values(name, random)
        form = form.replace("{u}", str(random.choice(of.bank[name]["units"])))
        return of.numeric(random, role, form, (name,), compare, n, m, "revised", large_number)
    attribute = of.attribute(random)
    n, m = random.sample(range(max(3, of.counted[attribute] + 1)), 2)
    role, form = of.form(random, of.bank["revised"][compare])
    text = of.fill(form, random, attribute, n)
    return of.numeric(random, role, text, (attribute,), compare, n, m, "revised")


def present(of: Slots, random: Random) -> Phrase:
    """At least one."""
    return of.of_one(random, "present", ">=", 1.0)


def absent(of: Slots, random: Random) -> Phrase:
    """None, perhaps of what the space lacks anyway."""
    if random.random() < 0.15:  # to do without what the space lacks anyway asks for nothing
        return _spared(of, random)
    return of.of_one(random, "absent", "==", 0.0)


def _spared(of: Slots, random: Random) -> Phrase:
    """Without something that the space lacks anyway, which asks for nothing."""
    role, form = of.form(random, of.bank["spared" if random.random() < 0.3 else "absent"])
    if random.random() < 0.4:
        lacking = random.choice(of.nouns_elsewhere(random))[1]
    else:
        lacking = re.sub(r"^(an?|the) |\{n\} ", "", random.choice(of.lacking(random)))
    return Phrase(role, re.sub(r"\{[NPS]\}", lambda _: lacking, form), [], "absent unknown")


def mostly(of: Slots, random: Random) -> Phrase:
    """In most places."""
    return of.of_one(random, "mostly", ">=", 4.0)


def few(of: Slots, random: Random) -> Phrase:
    """Two at most."""
    return of.of_one(random, "few", "<=", 2.0, ("conv",) if "conv" in of.counted else ())


def every(of: Slots, random: Random) -> Phrase:
    """In every place."""
    kind = "every" if of.space == "nasbench201" else "every_stage"
    return of.of_one(random, kind, "==", ALL_OF[of.space], tuple(n for n in of.counted if n != "layers"))


def all_but(of: Slots, random: Random) -> Phrase:
    """In all places but so many."""
    attribute, n = of.attribute(random), random.choice([1, 1, 1, 2, 2, 3])
    role, form = of.form(random, of.bank["all_but" if of.space == "nasbench201" else "all_but_stages"])
    form = of.fill(form, random, attribute).replace("{n}", small_number(n, random))
    form = form.replace("{E}", "edge" if n == 1 else "edges").replace("{T}", "stage" if n == 1 else "stages")
    return Phrase(role, form, [[((attribute,), "==", ALL_OF[of.space] - n)]], "all_but")


def some_not_all(of: Slots, random: Random) -> Phrase:
    """In some places, but not in all."""
    attribute = of.attribute(random)
    role, form = of.form(random, of.bank["some_not_all" if of.space == "nasbench201" else "some_stages"])
    clauses = [[((attribute,), ">=", 1.0)], [((attribute,), "<=", ALL_OF[of.space] - 1)]]
    return Phrase(role, of.fill(form, random, attribute), clauses, "some_not_all")


def those(of: Slots, random: Random) -> Phrase:
    """Something is named first, and how many of it are wanted is said then."""
    compare, attribute = random.choice(["==", ">=", "<="]), of.attribute(random)
    role, form = of.form(random, of.bank["those"][compare])
    n = random.randint(1, of.counted[attribute])
    return of.numeric(random, role, of.fill(form, random, attribute), (attribute,), compare, n, n, "those")


def on_edges(of: Slots, random: Random) -> Phrase:
    """So many of the edges of a cell."""
    attribute, compare = of.attribute(random), random.choices(["==", ">=", "<="], [4, 1, 1])[0]
    role, form = of.form(random, of.bank["on_edges"][compare])
    n = random.randint(1, 5)
    return of.numeric(
        random, role, of.fill(form, random, attribute), (attribute,), compare, n, n, f"on_edges {compare}"
    )


def half(of: Slots, random: Random) -> Phrase:
    """On half of the edges or more."""
    return of.of_one(random, "half", ">=", 3.0)


def dropped(of: Slots, random: Random) -> Phrase:
    """So many edges are empty."""
    kind, compare = random.choices([("exactly", "=="), ("some", ">="), ("none", "==")], [5, 2, 2])[0]
    role, form = of.form(random, of.bank["dropped"][kind])
    n = {"exactly": random.randint(1, 4), "some": 1, "none": 0}[kind]
    form = form.replace("{E}", "edge" if n == 1 else "edges")
    if "{n}" not in form:
        return Phrase(role, form, [[(("none",), compare, float(n))]], f"dropped {kind}")
    return of.numeric(random, role, form, ("none",), compare, n, n, f"dropped {kind}")


def all_vertices(of: Slots, random: Random) -> Phrase:
    """As many operations as a cell can hold."""
    role, form = of.form(random, of.bank["all_vertices"])
    return of.numeric(random, role, form, ("ops",), "==", 5, 5, "all_vertices")


def layers_each(of: Slots, random: Random) -> Phrase:
    """How many layers every stage has at least, or at most."""
    kind, lacking = random.choice(
        [("two", (1,)), ("two", (1,)), ("three", (1, 2)), ("not four", (4,)), ("not three", (3, 4))]
    )
    role, form = of.form(random, of.bank["layers_each"][kind])
    return Phrase(role, form, [[((f"layers{number}",), "==", 0.0)] for number in lacking], f"layers_each {kind}")
