"""Phrases: parts of requests in words, each with what it means.

Their forms are in `language.yaml`; what vague words mean is in `meaning.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from archgen import counts, mixes, traits
from archgen.meaning import ALL_OF, STYLES
from archgen.slots import Phrase, Slots
from archgen.vocabulary import OPERATIONS, Facts


class Phrases(Slots):
    """Draws phrases about the architectures of one space, of kinds that people use more often more often.

    Args:
        facts: Of the space.
        held_out: `without` phrases that are kept from training; `phrases`, only such phrases where there are any; or
            all.
    """

    def __init__(self, facts: Facts, held_out: str = "without"):
        super().__init__(facts, held_out)
        kinds: dict[Callable[..., Phrase], int] = {
            counts.count: 20, counts.present: 9, counts.absent: 12, counts.mostly: 5, counts.few: 3, traits.word: 22,
            mixes.neither: 4, mixes.both: 4, mixes.one_of: 3, mixes.instead: 4, mixes.more: 6, mixes.together: 3,
            Phrases.as_well: 2, mixes.more_of_both: 1, mixes.each: 2, mixes.double: 2, mixes.one_absent: 1,
            mixes.three: 3, traits.depth: 5, traits.params: 8, traits.flops: 7, mixes.two_counts: 5,
            mixes.either_not_both: 2, mixes.replaced: 1, mixes.listed: 5, mixes.either_count: 3, mixes.allowed: 4,
            mixes.outnumber: 2, counts.revised: 2, Phrases.changed: 1, traits.coded: 5, mixes.equal_with: 2,
            mixes.limits: 2, counts.those: 2, Phrases.needless: 2,
        }  # fmt: skip
        if OPERATIONS[self.space]:
            kinds |= {mixes.only: 5, mixes.only_two: 3, mixes.all_convs: 2, Phrases.but: 4, mixes.nothing_else: 5,
                      mixes.of_which: 3, mixes.one_type: 1}  # fmt: skip
        if ALL_OF[self.space]:
            kinds |= {counts.every: 3, mixes.rest: 3, counts.all_but: 3, counts.some_not_all: 1}
        if self.space == "nasbench201":
            kinds |= {counts.on_edges: 4, counts.half: 1, counts.dropped: 4, mixes.halves: 1, mixes.unweighted: 1}
        if self.space == "nasbench101":
            kinds |= {counts.all_vertices: 1}
        if self.space == "mnasnet":
            kinds |= {counts.layers_each: 3}
        self.kinds, self.weights = list(kinds), list(kinds.values())

    def draw(self, random: Random, count: int = 1) -> list[Phrase]:
        """So many phrases."""
        return [kind(self, random) for kind in random.choices(self.kinds, self.weights, k=count)]

    def adjective(self, random: Random) -> Phrase:
        """A phrase that stands before what is asked for."""
        while True:
            phrase = random.choice([traits.word, traits.word, counts.absent])(self, random)
            if phrase.role == "adj":
                return phrase

    # ---- phrases of others ---------------------------------------------------------------------------------------
    def needless(self, random: Random) -> Phrase:
        """What it need not be, which asks for nothing."""
        adjective = self.adjective(random)
        while adjective.key not in self.words:
            adjective = self.adjective(random)
        role, form = self.form(random, self.bank["needless"])
        return Phrase(role, form.replace("{x}", adjective.text), [], "needless")

    def _two_adjectives(self, random: Random, kind: str) -> tuple[str, Phrase, Phrase]:
        """A filled form, and the adjectives in it."""
        first, second = self.adjective(random), self.adjective(random)
        form = random.choice(self.bank[kind])
        return form.replace("{x}", first.text).replace("{y}", second.text), first, second

    def as_well(self, random: Random) -> Phrase:
        """Two adjectives at once."""
        text, first, second = self._two_adjectives(random, "as_well")
        return Phrase("say", text, first.clauses + second.clauses, "as_well")

    def changed(self, random: Random) -> Phrase:
        """An adjective that is taken back for another."""
        text, _, now = self._two_adjectives(random, "changed")
        return Phrase("say", text, now.clauses, "changed")

    def but(self, random: Random) -> Phrase:
        """Like something well known, but other in one respect, of which its own part is not asked any more."""
        styles = [name for name in STYLES if name in self.words]
        style = random.choice([*styles, "only"])
        if style == "only":
            base = mixes.only(self, random)
            while base.role == "say":
                base = mixes.only(self, random)
            known = {"adj": f"a {base.text} network", "np": f"a network with {base.text}"}
            known, clauses = known.get(base.role, f"a network {base.text}"), base.clauses
        else:
            known = random.choice(STYLES[style])
            clauses = [[((name,), compare, right)] for name, compare, right in self.words[style]]
        while True:
            (change,) = self.draw(random)
            if change.clauses and change.key not in ("but", "only", *STYLES):
                break
        named = {name for clause in change.clauses for names, _, _ in clause for name in self.facts.expand(names)}
        kept = [c for c in clauses if not any(set(self.facts.expand(names)) & named for names, _, _ in c)]
        form = random.choice(self.bank["but"][change.role])
        text = form.replace("{x}", known).replace("{y}", change.text)
        return Phrase("post" if text.startswith("like") else "say", text, kept + change.clauses, "but")
