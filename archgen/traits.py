"""Traits: phrases about depth and costs, in numbers or in vague words, and limits that are written as code."""

from __future__ import annotations

import re
from random import Random

from archgen.numerals import beyond, large_number, rounded
from archgen.slots import BEYOND, Number, Phrase, Slots
from archgen.vocabulary import MILLIONS

MEGA = 0.2  # share of multiply-adds whose unit says that they are millions
MEGA_UNITS = ("MMACs", "MFLOPs", "MFLOPS", "MMAdds", "mega-FLOPs")
IN_MILLIONS = re.compile(r"_m$|^M[A-Z]|^(mega|mparams|mflops|mmacs)|\(M\)$")  # names of costs that say so


def depth(of: Slots, random: Random) -> Phrase:
    """The longest path."""
    compare = random.choices(["==", ">=", "<=", ">", "<"], [6, 3, 3, 1, 1])[0]
    role, form = of.form(random, of.bank["depth"][compare])
    deepest = round(max(of.depths))
    n = beyond(deepest, random) if random.random() < BEYOND else round(random.choice(of.depths))
    return of.numeric(random, role, form, ("depth",), compare, n, n, "depth")


def _costly(of: Slots, random: Random, name: str) -> Phrase:
    compare = random.choices(["<=", "<", ">=", ">", "range", "inside", "~"], [7, 7, 3, 5, 4, 2, 3])[0]
    role, form = of.form(random, of.bank[name][compare])
    unit = str(random.choice(of.bank[name]["units"]))
    n, m = sorted(of.two_values(name, random))
    if random.random() < BEYOND:
        n, m = (rounded(value * random.choice([0.01, 0.1, 10, 100]), random) for value in (n, m))
        m = max(m, n)
    spell = (lambda value, random: large_number(value, random, unit)) if name == "flops" else large_number
    if name == "flops" and m < 1000 and random.random() < MEGA:
        unit, spell = random.choice(MEGA_UNITS), lambda value, _: f"{value:g}"
    return of.numeric(random, role, form.replace("{u}", unit), (name,), compare, n, m, name, spell)


def params(of: Slots, random: Random) -> Phrase:
    """The number of parameters."""
    return _costly(of, random, "params")


def flops(of: Slots, random: Random) -> Phrase:
    """The number of multiply-adds."""
    return _costly(of, random, "flops")


def word(of: Slots, random: Random) -> Phrase:
    """A vague word, such as small or residual."""
    weights = [
        3 if name in ("small", "large", "fast", "deep", "shallow", "tiny", "huge", "residual") else 1
        for name in of.words
    ]
    name = random.choices(list(of.words), weights)[0]
    table = of.bank["both_convs"] if name == "both_convs" else of.bank["words"][name]
    role, form = of.form(random, table)
    return Phrase(role, form, [[((a,), compare, right)] for a, compare, right in of.words[name]], name)


def coded(of: Slots, random: Random) -> Phrase:
    """Limits as code or settings, all true of one member."""
    bank = of.bank["coded"]
    known = [name for name in bank["keys"] if name in {*of.counted, "depth", "params", "flops"}]
    names = random.sample(known, random.choice([1, 2, 2, 3]))
    row = random.randrange(len(of.facts.members))
    style = bank["styles"][random.choice([*bank["styles"]])]
    signs = {compare: random.choice(forms) for compare, forms in style["signs"].items()}
    pair, between, around = (random.choice(style[part]) for part in ("pair", "between", "around"))
    parts, clauses, marked = [], [], dict[str, Number]()
    for name in names:
        compare = random.choice([*signs])
        key = random.choice(bank["keys"]["maxpool" if of.space == "nasbench101" and name == "pool" else name])
        words = _limit(name, compare, of.value(name, row), key, random)
        number = of.number(words, marked, name)
        sign = random.choice(style["signs"][compare]) if random.random() < 0.1 else signs[compare]
        parts.append(pair.replace("{k}", key).replace("{o}", sign).replace("{n}", number))
        meant = "~" if compare == "==" and name in MILLIONS else compare  # no cost is met to the last digit
        clauses.append([((name,), meant, marked[name])])
    return Phrase("say", around.replace("{x}", between.join(parts)), clauses, "coded")


def _limit(name: str, compare: str, value: float, key: str, random: Random) -> str:
    """A number in digits that a value is on the right side of; in millions where the key says so."""
    above = {"<=": 1, "<": 1, ">=": -1, ">": -1}.get(compare, 0)
    if name not in MILLIONS:
        strict = compare in ("<", ">")
        number = round(value) + above * (strict + random.choice([0, 0, 1, 2]))
        return str(max(number, 0))
    number = rounded(value * (1 + above * random.uniform(0.02, 0.4)), random)
    if IN_MILLIONS.search(key) and number < 1000:
        return f"{number:g}"
    if name == "flops" and (number >= 1000 or (number >= 10 and random.random() < 0.2)):
        return f"{number / 1000:.4g}{random.choice('GGBg')}"
    return random.choice([f"{number:g}M", f"{number:g}M", f"{number:g}m", f"{number:g}e6", f"{number * 1e6:.0f}"])
