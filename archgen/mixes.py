"""Mixes: phrases about several attributes, one beside, against or instead of another."""

from __future__ import annotations

from random import Random

from archgen.language import alternative
from archgen.meaning import ALL_OF, PARTITIONS
from archgen.numerals import large_number, small_number
from archgen.slots import Number, Phrase, Slots
from archgen.vocabulary import OPERATIONS

QUANTITIES = {
    "==": ["{n}", "exactly {n}", "{n}", "precisely {n}"],
    ">=": ["at least {n}", "at least {n}", "{n} or more", "no fewer than {n}", ">= {n}"],
    "<=": ["at most {n}", "at most {n}", "{n} or fewer", "no more than {n}", "<= {n}"],
}


def rest(of: Slots, random: Random) -> Phrase:
    """So many of one kind, and another in all other places."""
    a, b = random.choice(PARTITIONS[of.space])
    n = random.choice([1, 1, 1, 2, 2, 3])
    role, text, marked = of.numbered(random, of.bank["rest"], [a], [n])
    text = text.replace("{B}", of.plural(random, b)).replace("{S}", of.noun(b, random)[0])
    return Phrase(role, text, [[((a,), "==", marked[0])], [((b,), "==", ALL_OF[of.space] - n)]], "rest")


def nothing_else(of: Slots, random: Random) -> Phrase:
    """So many of one or two operations, and no other; of empty edges nothing is said."""
    operations = OPERATIONS[of.space]
    names = random.sample(operations, random.choice([1, 1, 2]))
    if len(names) == 1 and random.random() < 0.25:
        names = ["conv"]
    numbers = [random.choice([1, 1, 2, 2, 3, 4]) for _ in names]
    role, text, marked = of.numbered(random, of.bank["nothing_else"][str(len(names))], names, numbers)
    clauses = [[((name,), "==", mark)] for name, mark in zip(names, marked, strict=True)]
    absent = [name for name in operations if name not in of.facts.expand(names)]
    return Phrase(role, text, clauses + [[((name,), "==", 0.0)] for name in absent], "nothing_else")


def of_which(of: Slots, random: Random) -> Phrase:
    """So many convolutions, and how many of them are of one size."""
    own = random.choice(["conv3x3", "conv1x1"])
    n = random.randint(2, 5)
    m = random.randint(1, n - 1)
    role, text, marked = of.numbered(random, of.bank["of_which"], ["conv", own], [n, m])
    return Phrase(role, text, [[(("conv",), "==", marked[0])], [((own,), "==", marked[1])]], "of_which")


def one_type(of: Slots, random: Random) -> Phrase:
    """Convolutions of one size, whichever."""
    role, form = of.form(random, of.bank["one_type"])
    lacking = [(("conv3x3",), "==", 0.0), (("conv1x1",), "==", 0.0)]
    return Phrase(role, form, [[(("conv",), ">=", 1.0)], lacking], "one_type")


def only(of: Slots, random: Random) -> Phrase:
    """One operation, or convolutions, and no other."""
    operations = OPERATIONS[of.space]
    attribute = random.choice([*operations, "conv"])
    role, form = of.form(random, of.bank["only"])
    own = of.facts.expand((attribute,))
    clauses = [[((attribute,), ">=", 1.0)], *([((name,), "==", 0.0)] for name in operations if name not in own)]
    return Phrase(role, of.fill(form, random, attribute), clauses, "only")


def listed(of: Slots, random: Random) -> Phrase:
    """The counts of several attributes, those of a member."""
    names = of.apart(random, random.choices([2, 3, 4], [3, 4, 2])[0])
    row, style = random.randrange(len(of.facts.members)), alternative(random.choice(of.bank["listed"]), random)
    parts, clauses, marked = [], [], dict[str, Number]()
    for name in names:
        n = round(of.value(name, row))
        singular, plural = of.noun(name, random)
        if not n and style.startswith("{n} ") and random.random() < 0.7:
            parts.append(f"no {plural}")
            clauses.append([((name,), "==", 0.0)])
            continue
        number = of.number(small_number(n, random), marked, name)
        part = style.replace("{n}", number).replace("{P}", plural).replace("{S}", singular)
        parts.append(part.replace("{N}", singular if n == 1 else plural))
        clauses.append([((name,), "==", marked[name])])
    between = random.choice([", ", ", ", "; ", " and ", " + "] if style.startswith("{n} ") else [", ", "; ", " "])
    last = random.choice([between, " and ", ", and ", " plus "]) if style.startswith("{n} ") else between
    text = last.join([between.join(parts[:-1]), parts[-1]])
    return Phrase(random.choice(["np", "say"]), text, clauses, "listed")


def either_count(of: Slots, random: Random) -> Phrase:
    """So many of one or so many of another."""
    names, compare = of.apart(random, 2), random.choice(["==", "==", ">="])
    numbers = [random.randint(1, min(3, of.counted[name])) for name in names]
    role, text, marked = of.numbered(random, of.bank["either_count"][compare], names, numbers)
    clause = [((name,), compare, mark) for name, mark in zip(names, marked, strict=True)]
    return Phrase(role, text, [clause], f"either_count {compare}")


def allowed(of: Slots, random: Random) -> Phrase:
    """What may be there or not, perhaps beside what may not."""
    if random.random() < 0.7:
        role, form = of.form(random, of.bank["allowed"])
        return Phrase(role, of.fill(form, random, of.attribute(random)), [], "allowed")
    role, text, _, b = of.pair(random, "allowed_not")
    return Phrase(role, text, [[((b,), "==", 0.0)]], "allowed_not")


def outnumber(of: Slots, random: Random) -> Phrase:
    """More of one than of two others together."""
    a, b, c = of.apart(random, 3)
    role, text = of.named(random, of.bank["outnumber"], (a, b, c))
    return Phrase(role, text, [[((a,), ">", (b, c))]], "outnumber")


def equal_with(of: Slots, random: Random) -> Phrase:
    """As many of one as of another, or not, and of both at least so many; or as many as of two others together."""
    if random.random() < 0.35 and len(set(of.facts.expand(of.countable()))) > 2:
        compare = random.choice(["==", "==", "<", ">="])
        names = of.apart(random, 3)
        role, text = of.named(random, of.bank["sum_of_two"][compare], names)
        return Phrase(role, text, [[(tuple(names[:1]), compare, tuple(names[1:]))]], f"sum_of_two {compare}")
    compare, names = random.choice(["==", "==", "!="]), of.apart(random, 2)
    clause = [((names[0],), compare, (names[1],))]
    if compare == "!=" and random.random() < 0.6:
        role, text = of.named(random, of.bank["unequal"], names)
        return Phrase(role, text, [clause], "unequal")
    (role, text), marked = of.named(random, of.bank["equal_with"][compare], names), dict[str, Number]()
    if "{n}" in text:
        text = text.replace("{n}", of.number(small_number(random.randint(1, 3), random), marked, "n"))
    least = marked.get("n", 1.0)
    return Phrase(role, text, [clause, *([((name,), ">=", least)] for name in names)], f"equal_with {compare}")


def limits(of: Slots, random: Random) -> Phrase:
    """What is not wanted: fewer than so many of one, more than so many of another, which may be a cost."""
    names, kind = of.apart(random, 2), random.choice(["least_most", "least_most", "most_most", "least_least"])
    numbers = [random.randint(1, min(4, of.counted[name])) for name in names]
    role, form = of.form(random, of.bank["limits"][kind])
    marked: dict[str, Number] = {}
    words = [small_number(number, random) for number in numbers]
    nouns = [of.noun(name, random)[number != 1] for name, number in zip(names, numbers, strict=True)]
    if random.random() < 0.3:
        names[1] = random.choice(["params", "flops"])
        nouns[1] = str(random.choice(of.bank[names[1]]["units"]))
        words[1] = large_number(of.two_values(names[1], random)[0], random)
    for slot, noun, number, name in zip("nm", "AB", words, nouns, strict=True):
        form = form.replace(f"{{{slot}}}", of.number(number, marked, slot)).replace(f"{{{noun}}}", name)
    compares = {"least": ">=", "most": "<="}
    ends = [compares[end] for end in kind.split("_")]
    clauses = [[((name,), end, mark)] for name, end, mark in zip(names, ends, marked.values(), strict=True)]
    return Phrase(role, form, clauses, f"limits {kind}")


def halves(of: Slots, random: Random) -> Phrase:
    """Half of the edges of one kind, half of another."""
    names = random.choice(PARTITIONS[of.space])
    role, text = of.named(random, of.bank["halves"], names)
    return Phrase(role, text, [[((name,), "==", 3.0)] for name in names], "halves")


def unweighted(of: Slots, random: Random) -> Phrase:
    """So many operations that are no convolutions."""
    compare = random.choice(["==", ">=", "<="])
    role, form = of.form(random, of.bank["unweighted"])
    n = random.randint(1, 5)
    form = form.replace("{q}", random.choice(QUANTITIES[compare]))
    return of.numeric(random, role, form, ("pool", "skip"), compare, n, n, "unweighted")


def neither(of: Slots, random: Random) -> Phrase:
    """None of one and none of another."""
    role, text, a, b = of.pair(random, "neither")
    return Phrase(role, text, [[((a,), "==", 0.0)], [((b,), "==", 0.0)]], "neither")


def both(of: Slots, random: Random) -> Phrase:
    """Some of each of two."""
    role, text, a, b = of.pair(random, "both")
    return Phrase(role, text, [[((a,), ">=", 1.0)], [((b,), ">=", 1.0)]], "both")


def one_of(of: Slots, random: Random) -> Phrase:
    """Some of one or some of another."""
    role, text, a, b = of.pair(random, "one_of")
    return Phrase(role, text, [[((a,), ">=", 1.0), ((b,), ">=", 1.0)]], "one_of")


def instead(of: Slots, random: Random) -> Phrase:
    """Some of one and none of another."""
    role, text, a, b = of.pair(random, "without_but")
    return Phrase(role, text, [[((a,), ">=", 1.0)], [((b,), "==", 0.0)]], "without_but")


def more(of: Slots, random: Random) -> Phrase:
    """More of one than of another, as many, or at least as many."""
    kind, compare = random.choices([("more", ">"), ("equal", "=="), ("at_least_as", ">=")], [6, 3, 2])[0]
    role, text, a, b = of.pair(random, kind)
    return Phrase(role, text, [[((a,), compare, (b,))]], kind)


def more_of_both(of: Slots, random: Random) -> Phrase:
    """More of one than of another, of which there is some."""
    role, text, a, b = of.pair(random, "more_of_both")
    return Phrase(role, text, [[((a,), ">", (b,))], [((b,), ">=", 1.0)]], "more_of_both")


def each(of: Slots, random: Random) -> Phrase:
    """The same number of two."""
    names = ["conv3x3", "conv1x1"] if OPERATIONS[of.space] and random.random() < 0.3 else of.apart(random, 2)
    kind = "each_conv" if names == ["conv3x3", "conv1x1"] and random.random() < 0.7 else "each"
    n = random.randint(1, 3)
    role, text, (mark,) = of.numbered(random, of.bank[kind], names[:1], [n])
    text = text.replace("{B}", of.noun(names[1], random)[n != 1])
    return Phrase(role, text, [[((name,), "==", mark)] for name in names], "each")


def double(of: Slots, random: Random) -> Phrase:
    """Twice as many of one as of another, or more."""
    kind, compare = random.choice([("double_exact", "=="), ("double_least", ">=")])
    role, text, a, b = of.pair(random, kind)
    own = of.facts.expand((b,))
    return Phrase(role, text, [[((a,), compare, (*own, *own))]], kind)


def two_counts(of: Slots, random: Random) -> Phrase:
    """So many of one and so many of another."""
    names = of.apart(random, 2)
    numbers = [random.randint(0, min(4, of.counted[name])) for name in names]
    role, text, marked = of.numbered(random, of.bank["two_counts"], names, numbers)
    clauses = [[((name,), "==", mark)] for name, mark in zip(names, marked, strict=True)]
    return Phrase(role, text, clauses, "two_counts")


def either_not_both(of: Slots, random: Random) -> Phrase:
    """One of two, but not both."""
    role, text, a, b = of.pair(random, "either_not_both")
    some, lacking = [((a,), ">=", 1.0), ((b,), ">=", 1.0)], [((a,), "==", 0.0), ((b,), "==", 0.0)]
    return Phrase(role, text, [some, lacking], "either_not_both")


def replaced(of: Slots, random: Random) -> Phrase:
    """One in place of another."""
    role, text, a, b = of.pair(random, "replaced")
    return Phrase(role, text, [[((b,), ">=", 1.0)], [((a,), "==", 0.0)]], "replaced")


def only_two(of: Slots, random: Random) -> Phrase:
    """Two operations and no other; of empty edges nothing is said."""
    a, b = random.sample(OPERATIONS[of.space], 2)
    role, text = of.named(random, of.bank["only_two"], (a, b))
    others = [name for name in OPERATIONS[of.space] if name not in (a, b)]
    clauses = [[((a,), ">=", 1.0)], [((b,), ">=", 1.0)], *([((name,), "==", 0.0)] for name in others)]
    return Phrase(role, text, clauses, "only_two")


def all_convs(of: Slots, random: Random) -> Phrase:
    """All convolutions of one size."""
    own, other = random.sample(["conv3x3", "conv1x1"], 2)
    role, form = of.form(random, of.bank["all_convs"])
    clauses = [[((own,), ">=", 1.0)], [((other,), "==", 0.0)]]
    return Phrase(role, of.fill(form, random, own), clauses, "all_convs")


def one_absent(of: Slots, random: Random) -> Phrase:
    """None of one or none of another."""
    role, text, a, b = of.pair(random, "one_absent")
    return Phrase(role, text, [[((a,), "==", 0.0), ((b,), "==", 0.0)]], "one_absent")


def three(of: Slots, random: Random) -> Phrase:
    """Three attributes that are all absent, or all present."""
    kind, compare, number = random.choice([("none_of", "==", 0.0), ("all_of", ">=", 1.0)])
    basic = [name for name in of.counted if name not in ("layers", "edges", "ops", "conv")]
    names = random.sample(basic, 3)
    role, text = of.named(random, of.bank[kind], names)
    return Phrase(role, text, [[((name,), compare, number)] for name in names], kind)


def together(of: Slots, random: Random) -> Phrase:
    """So many of two together."""
    compare = random.choice(["==", ">=", "<="])
    role, text, a, b = of.pair(random, "together")
    text = text.replace("{q}", random.choice(QUANTITIES[compare]))
    n = random.randint(1, max(of.counted[a], 5))
    return of.numeric(random, role, text, (a, b), compare, n, n, "together")
