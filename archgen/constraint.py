"""Hard constraints on what can be counted: parsed from text, bounded for partial architectures, decided."""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import chain, combinations_with_replacement, islice, product, starmap
from math import ceil, floor

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from archgen.space import ABSENT, OPEN, SearchSpace, Value

TOLERANCE = 1e-9  # of a comparison; params_m and macs_m come in steps of 1e-6
LARGEST, LONGEST = 1e12, 10_000  # number, and length of a text
COMPARE: dict[type[ast.cmpop], str] = {
    ast.LtE: "<=", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.Gt: ">",
}  # fmt: skip
SIGNS = {"<=": (1,), "<": (1,), ">=": (-1,), ">": (-1,), "==": (1, -1), "!=": ()}  # of what is at most zero
MOST_ALTERNATIVES = 64
MOST_BOUNDED = 60_000  # boxes that branch and bound looks at: about a second of work
CONFIDENCE = re.compile(r"@\s*(\d+(?:\.\d+)?)\s*%")
COMPLEMENT = {"<=": ">", ">": "<=", ">=": "<", "<": ">=", "==": "!=", "!=": "=="}


class Infeasible(ValueError):
    """No member of the space meets the constraint, or none was found; the message says what comes nearest.

    Args:
        message: What to tell.
        proven: Whether it is known that there is none.
    """

    def __init__(self, message: str, proven: bool):
        super().__init__(message)
        self.proven = proven


@dataclass(frozen=True)
class Count:
    """Number of nodes with an operation, or of holes and nodes with an attribute's value.

    Attributes:
        text: As the user wrote it.
        weights: `(holes, options)`: 1 where the choice is counted.
        constant: What the fixed nodes of the template add.
    """

    text: str
    weights: Float[Tensor, "holes options"]
    constant: float


@dataclass(frozen=True)
class Bound:
    """What a measured property stays below, or above, with some confidence.

    Attributes:
        name: Of the property.
        level: The confidence, in (0, 1).
        upper: Whether it is an upper bound.
    """

    name: str
    level: float
    upper: bool


Predict = Callable[[Int[Tensor, "batch holes"], Bound], Float[Tensor, " batch"]]


@dataclass(frozen=True)
class Linear:
    """A sum of costs, counts and bounds of what is measured, with coefficients."""

    costs: tuple[tuple[str, float], ...] = ()
    counts: tuple[tuple[Count, float], ...] = ()
    constant: float = 0.0
    bounds: tuple[tuple[Bound, float], ...] = ()

    def plus(self, other: Linear, sign: float = 1.0) -> Linear:
        """The sum, or with `sign=-1` the difference."""
        flip = other.times(sign)
        costs = dict(self.costs)
        for name, factor in flip.costs:
            costs[name] = costs.get(name, 0.0) + factor
        kept = tuple(item for item in costs.items() if item[1])
        constant = self.constant + flip.constant
        return Linear(kept, self.counts + flip.counts, constant, self.bounds + flip.bounds)

    @property
    def terms(self) -> tuple[tuple[str | Count | Bound, float], ...]:
        """All that is summed, with its coefficient."""
        return (*self.costs, *self.counts, *self.bounds)

    def times(self, factor: float) -> Linear:
        """Every coefficient multiplied."""
        return Linear(
            tuple((name, c * factor) for name, c in self.costs),
            tuple((count, c * factor) for count, c in self.counts),
            self.constant * factor,
            tuple((bound, c * factor) for bound, c in self.bounds),
        )


@dataclass(frozen=True)
class Atom:
    """A comparison of a linear expression with zero."""

    left: Linear
    compare: str


@dataclass(frozen=True)
class Junction:
    """All (`every`) or at least one of the parts."""

    every: bool
    parts: tuple[Atom | Junction, ...]


class Constraint:
    """A condition that every result meets: `0.2 <= params_m <= 0.4 and not count(avg_pool_3x3) > 1`.

    Names are the costs of the space (`params_m`, `macs_m`, `depth`); `count(OP)` counts nodes with an operation and
    `count(ATTRIBUTE == VALUE)` choices of an attribute (quote what is no plain word). They are added, subtracted,
    multiplied by numbers, compared (`<= >= == != < >`, chains, `in [low, high]`) and joined by `and`, `or`, `not`.
    What is measured is compared with a number and a confidence: `raspi4_latency_ms <= 20 @ 90%` holds where the bound
    that the property keeps with that confidence does.

    Args:
        text: The condition.
        space: Where it is to hold.
        measured: Names of measured properties that can be compared.
        predict: Gives their bounds for complete encodings.

    Raises:
        ValueError: If the text is no condition on this space; the sentence names the place.
    """

    def __init__(self, text: str, space: SearchSpace, measured: Collection[str] = (), predict: Predict | None = None):
        self.text, self.space = text.strip(), space
        self._parsed = CONFIDENCE.sub(_as_operand, self.text)
        self.measured, self._predict = measured, predict
        if len(self.text) > LONGEST:
            raise ValueError(f"a constraint has at most {LONGEST} characters, got {len(self.text)}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(self._parsed, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(
                f"cannot read the constraint {self.text[:80]!r}: {getattr(error, 'msg', error)}"
            ) from None
        try:
            self.root = self._formula(tree, negated=False)
        except RecursionError:
            raise ValueError(f"the constraint {self.text[:80]!r} is nested too deeply") from None
        self.names = tuple(dict.fromkeys(name for atom in self.atoms() for name, _ in atom.left.costs))
        self.bounds = tuple(dict.fromkeys(bound for atom in self.atoms() for bound, _ in atom.left.bounds))

    # ---- parsing -------------------------------------------------------------------------------------------------
    def _fault(self, node: ast.AST, expected: str) -> ValueError:
        part = (ast.get_source_segment(self._parsed, node) or self.text)[:60]
        return ValueError(f"in the constraint, {part!r}: {expected}")

    def _formula(self, node: ast.expr, negated: bool) -> Atom | Junction:
        if isinstance(node, ast.BoolOp):
            every = isinstance(node.op, ast.And) != negated
            return Junction(every, tuple(self._formula(value, negated) for value in node.values))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return self._formula(node.operand, not negated)
        if isinstance(node, ast.Compare):
            parts, left = [], node.left
            for op, right in zip(node.ops, node.comparators, strict=True):
                parts += self._comparison(node, left, op, right)
                left = right
            if negated:
                if any(part.left.bounds for part in parts):
                    raise self._fault(node, "a confidence cannot be negated; compare the other way round")
                parts = [Atom(part.left, COMPLEMENT[part.compare]) for part in parts]
            parts = [_normalize(part) for part in parts]
            return parts[0] if len(parts) == 1 else Junction(not negated, tuple(parts))
        raise self._fault(node, "expected a comparison such as params_m <= 0.4")

    def _comparison(self, whole: ast.expr, left: ast.expr, op: ast.cmpop, right: ast.expr) -> list[Atom]:
        if isinstance(op, ast.In) and isinstance(right, (ast.List, ast.Tuple)) and len(right.elts) == 2:
            low, high = right.elts
            return self._comparison(whole, left, ast.GtE(), low) + self._comparison(whole, left, ast.LtE(), high)
        if type(op) not in COMPARE:
            raise self._fault(whole, "compare with <=, >=, ==, !=, <, > or 'in [low, high]'")
        if isinstance(right, ast.BinOp) and isinstance(right.op, ast.MatMult):
            return [self._confident(whole, left, COMPARE[type(op)], right)]
        difference = self._linear(left).plus(self._linear(right), -1.0)
        factors = [abs(factor) for _, factor in difference.terms if factor]
        if not factors:
            raise self._fault(whole, f"compares numbers alone; name one of {self._known()}")
        if not all(1 / LARGEST < number < LARGEST for number in (*factors, 1 + abs(difference.constant))):
            raise self._fault(whole, f"numbers lie between {1 / LARGEST:g} and {LARGEST:g}")
        return [Atom(difference, COMPARE[type(op)])]

    def _confident(self, whole: ast.expr, left: ast.expr, compare: str, right: ast.BinOp) -> Atom:
        if not isinstance(left, ast.Name) or compare not in ("<=", "<", ">=", ">"):
            raise self._fault(whole, "a confidence goes with one measured property, such as latency_ms <= 20 @ 90%")
        if left.id not in self.measured:
            known = ", ".join(self.measured) or "nothing"
            raise self._fault(left, f"a confidence goes with what is measured; here {known} can be predicted")
        level = right.right.value if isinstance(right.right, ast.Constant) else None
        if not isinstance(level, float) or not 0 < level < 1:
            raise self._fault(whole, "a confidence lies between 0 and 100 %, such as @ 90%")
        bound = Linear(bounds=((Bound(left.id, level, upper=compare in ("<=", "<")), 1.0),))
        return Atom(bound.plus(self._linear(right.left), -1.0), compare)

    def _linear(self, node: ast.expr) -> Linear:
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, (int, float))
            and not isinstance(node.value, bool)
        ):
            if not abs(node.value) < LARGEST:
                raise self._fault(node, "a number is too large")
            return Linear(constant=float(node.value))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            return self._linear(node.operand).times(-1.0 if isinstance(node.op, ast.USub) else 1.0)
        if isinstance(node, ast.BinOp):
            left, right = self._linear(node.left), self._linear(node.right)
            if isinstance(node.op, (ast.Add, ast.Sub)):
                return left.plus(right, 1.0 if isinstance(node.op, ast.Add) else -1.0)
            numeric = [side for side in (left, right) if not side.costs and not side.counts]
            if isinstance(node.op, ast.Mult) and numeric:
                return (right if numeric[0] is left else left).times(numeric[0].constant)
            if isinstance(node.op, ast.Div) and numeric and numeric[-1] is right and right.constant:
                return left.times(1 / right.constant)
            raise self._fault(node, "costs and counts can be added, and multiplied or divided by a number")
        if isinstance(node, ast.Name):
            if node.id in self.measured:
                raise self._fault(node, f"what is measured needs a confidence, such as {node.id} <= 20 @ 90%")
            if node.id not in self.space.cost.names:
                raise self._fault(
                    node, f"{self.space.name} knows {self._known()}; what is measured is no hard constraint"
                )
            return Linear(costs=((node.id, 1.0),))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "count":
            return Linear(counts=((self._count(node), 1.0),))
        raise self._fault(node, f"expected a number or one of {self._known()}")

    def _known(self) -> str:
        return ", ".join([*self.space.cost.names, "count(OP)", "count(ATTRIBUTE == VALUE)"])

    def _count(self, node: ast.Call) -> Count:
        if len(node.args) != 1 or node.keywords:
            raise self._fault(node, "count takes one operation, or one ATTRIBUTE == VALUE")
        argument = node.args[0]
        attribute, value_node = "op", argument
        if isinstance(argument, ast.Compare) and len(argument.ops) == 1 and isinstance(argument.ops[0], ast.Eq):
            attribute, value_node = self._word(argument.left), argument.comparators[0]
        value = self._word(value_node)
        weights = torch.zeros(len(self.space.holes), self.space.n_options, dtype=torch.float64)
        constant, seen = 0.0, set()
        for index, hole in enumerate(self.space.holes):
            if hole.kind == attribute:
                spelled = ["" if option in (ABSENT, self.space.absent) else _spell(option) for option in hole.options]
                seen.update(filter(None, spelled))
                weights[index, : len(spelled)] = torch.tensor([float(word == value) for word in spelled])
        for slot in self.space.slots[1:-1]:
            for name, options in slot.choices.items():
                if len(options) == 1 and name not in slot.when and (name.rstrip("0123456789") or name) == attribute:
                    seen.add(_spell(options[0]))
                    constant += _spell(options[0]) == value
        if value not in seen:
            kinds = sorted({hole.kind for hole in self.space.holes} - {"edge"})
            raise self._fault(node, f"{self.space.name} has {attribute}: {sorted(seen)}" if seen else f"count {kinds}")
        return Count(ast.get_source_segment(self._parsed, node) or "count", weights, constant)

    def _word(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float)):
            return _spell(node.value)
        segment = ast.get_source_segment(self._parsed, node)
        if segment is not None:  # names such as conv3x3-bn-relu parse as differences
            return segment.strip()
        raise self._fault(node, "expected a name or a value")

    def atoms(self) -> Iterator[Atom]:
        """All comparisons."""
        stack: list[Atom | Junction] = [self.root]
        while stack:
            part = stack.pop()
            if isinstance(part, Atom):
                yield part
            else:
                stack.extend(reversed(part.parts))

    # ---- deciding ------------------------------------------------------------------------------------------------
    def holds(self, codes: Int[Tensor, "batch holes"]) -> Bool[Tensor, " batch"]:
        """Whether complete encodings meet the constraint; exact."""
        return self.violation(codes) == 0

    def violation(self, codes: Int[Tensor, "batch holes"]) -> Float[Tensor, " batch"]:
        """How far complete encodings are from meeting it, in the scale of the numbers compared; 0 where they do."""
        values = self._values(codes)

        def measure(atom: Atom) -> Tensor:
            return _distance(values(atom.left), atom.compare) / max(1e-3, abs(atom.left.constant))

        return _fold(self.root, measure, operator.add, torch.minimum)

    def _values(self, codes: Tensor) -> Callable[[Linear], Tensor]:
        """What linear expressions come to for complete encodings."""
        exact = self.space.cost.exact(codes) if self.names else {}
        bounds = {bound: self._predict(codes, bound).double() for bound in self.bounds}
        holes = torch.arange(codes.shape[1])

        def values(linear: Linear) -> Tensor:
            total = torch.full((len(codes),), linear.constant, dtype=torch.float64)
            for name, factor in linear.costs:
                total += factor * exact[name]
            for count, factor in linear.counts:
                total += factor * (count.constant + count.weights[holes, codes].sum(-1))
            for bound, factor in linear.bounds:
                total += factor * bounds[bound]
            return total

        return values

    def possible(self, domains: Bool[Tensor, "batch holes options"]) -> Bool[Tensor, " batch"]:
        """Whether bounds leave a completion that may meet the constraint; never false where there is one."""
        bounds = self.space.cost.bounds(domains) if self.names else {}
        return _fold(self.root, lambda atom: self._possible(atom, domains, bounds), operator.and_, operator.or_)

    def _possible(self, atom: Atom, domains: Tensor, bounds: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        if atom.left.bounds:  # known of complete encodings only
            return torch.ones(len(domains), dtype=torch.bool)
        low = torch.full((len(domains),), atom.left.constant, dtype=torch.float64)
        high = low.clone()
        for name, factor in atom.left.costs:
            ends = (bounds[name][0] * factor, bounds[name][1] * factor)
            low, high = low + ends[factor < 0], high + ends[factor >= 0]
        if atom.left.counts:
            weights = sum(count.weights * factor for count, factor in atom.left.counts)
            fixed = sum(count.constant * factor for count, factor in atom.left.counts)
            low = low + fixed + torch.where(domains, weights, torch.inf).amin(-1).sum(-1)
            high = high + fixed + torch.where(domains, weights, -torch.inf).amax(-1).sum(-1)
        return {
            "<=": low <= TOLERANCE,
            ">=": high >= -TOLERANCE,
            "<": low < -TOLERANCE,
            ">": high > TOLERANCE,
            "==": (low <= TOLERANCE) & (high >= -TOLERANCE),
            "!=": (low < -TOLERANCE) | (high > TOLERANCE),
        }[atom.compare]

    def interval(self, name: str) -> tuple[float, float]:
        """Least and largest value of one cost that the constraint leaves, read as a conjunction; infinite if open."""
        low, high = -torch.inf, torch.inf
        parts = [self.root] if isinstance(self.root, Atom) else list(self.root.parts) if self.root.every else []
        while parts:
            part = parts.pop()
            if isinstance(part, Junction):
                parts += part.parts if part.every else ()
            elif [key if isinstance(key, str) else getattr(key, "name", None) for key, _ in part.left.terms] == [name]:
                factor = part.left.terms[0][1]
                edge = -part.left.constant / factor if factor else torch.nan
                upper = (part.compare in ("<=", "<")) == (factor > 0)
                if part.compare == "==" or (part.compare != "!=" and upper):
                    high = min(high, edge)
                if part.compare == "==" or (part.compare != "!=" and not upper):
                    low = max(low, edge)
        return low, high

    @property
    def listed(self) -> bool:
        """Whether the space is so small that `witness` returns all that meet the constraint."""
        return self.space.enumerate_legal is None and self.space.size <= self.space.cost.listable

    def witness(self, generator: torch.Generator | None = None) -> Int[Tensor, "found holes"]:
        """Some members of the space that meet the constraint, at least one.

        Small spaces are listed. In others samples and a descent on `violation` look for a member; comparisons that
        exclude each other prove that there is none; a list of all members or branch and bound over `possible` finds
        one or proves that there is none. How far is looked is counted, not timed: a seed gives the same everywhere.

        Args:
            generator: Source of randomness.

        Raises:
            Infeasible: If there is none, or none was found; the message says which, and what comes nearest.
        """
        proven = not self.possible(self.space.domains(_all_open(self.space))).item()
        if self.listed:
            nearest, proven = self.space.legal_codes, True
        else:
            nearest = self.descend(self.space.sample(2048, generator))
        violation = self.violation(nearest)
        if (violation == 0).any():
            return nearest[violation == 0]
        proven = proven or self._contradicts_itself()
        if not proven:
            found = self._branch_and_bound() if self.space.enumerate_legal is None else self._scan()
            if found is not None and len(found):
                return found
            proven = found is not None
        best = nearest[violation.argmin()]
        said = self._describe(best[None])
        reason = "no member of {} meets" if proven else "no member of {} was found that meets"
        raise Infeasible(f"{reason.format(self.space.name)} {self.text!r}; the nearest found has {said}", proven)

    def _describe(self, codes: Tensor) -> str:
        exact = self.space.cost.exact(codes) if self.names else {}
        facts = {name: f"= {exact[name].item():.6g}" for name in self.names}
        for atom in self.atoms():
            for count, _ in atom.left.counts:
                number = count.constant + count.weights[torch.arange(codes.shape[1]), codes[0]].sum().item()
                facts[count.text] = f"= {number:.0f}"
        for bound in self.bounds:
            side, value = "below" if bound.upper else "above", self._predict(codes, bound).item()
            facts[bound.name] = f"{side} {value:.6g} with {100 * bound.level:g} % confidence"
        return ", ".join(f"{name} {value}" for name, value in facts.items())

    def descend(self, codes: Int[Tensor, "batch holes"], keep: int = 48) -> Int[Tensor, "kept holes"]:
        """Members near the given ones that violate the constraint less, the best first.

        Beam search: every change of one hole of the best members so far, or of two when one does not help; until
        neither does, or as many changes were tried as are priced in a moment.

        Args:
            codes: Complete encodings to start from.
            keep: Width of the beam.
        """
        beam, tried = codes, 0
        score = self.violation(beam)
        beam, score = _best(beam, score, keep)
        double, generator = False, torch.Generator().manual_seed(0)
        while score[0] > 0 and tried < self.space.cost.listable:
            trial = neighbours(self.space, beam)
            if double:
                trial = neighbours(self.space, trial[torch.randperm(len(trial), generator=generator)[:64]])
            tried += len(trial)
            union = torch.cat([beam, trial[self.space.feasible(trial)]]).unique(dim=0)
            improved, new_score = _best(union, self.violation(union), keep)
            stuck = torch.equal(improved, beam)
            if stuck and double:
                break
            double = stuck
            beam, score = improved, new_score
        return beam

    def _scan(self) -> Tensor:
        """Members found in the list of all, an empty tensor if there are none."""
        for chunk in self.space.legal_codes.split(1 << 15):
            if (met := self.holds(chunk)).any():
                return chunk[met]
        return self.space.legal_codes[:0]

    def _contradicts_itself(self) -> bool:
        """Whether two comparisons exclude each other in each alternative, as far as a Lagrangian bound can tell.

        Where costs are sums over the nodes, so is every combination of two comparisons, and its least value is the sum
        of the nodes' least.
        """
        choices = _node_by_node(self.space) if self.space.cost.separable else None
        alternatives = _alternatives(self.root)
        if choices is None or len(alternatives) > MOST_ALTERNATIVES:
            return False
        values = self._values(choices.flatten(0, 1))

        def forms(atom: Atom) -> Iterator[tuple[float, Tensor]]:
            """The comparison as `start + sum of one change per node <= 0`; what is predicted is no such sum."""
            if atom.left.bounds:
                return
            total = values(atom.left).reshape(choices.shape[:2])
            start = total[0, 0].item()
            for sign in SIGNS[atom.compare]:
                yield sign * start + TOLERANCE * (atom.compare in ("<", ">")), sign * (total - start)

        return all(
            any(starmap(_exclude, combinations_with_replacement(list(chain(*map(forms, atoms))), 2)))
            for atoms in alternatives
        )

    def _branch_and_bound(self, most: int = MOST_BOUNDED, chunk: int = 1024) -> Tensor | None:
        """Members found, an empty tensor if there are none, None if more than `most` boxes had to be bounded."""
        stack, bounded = [_all_open(self.space)], 0
        while stack:
            if bounded > most:
                return None
            codes = stack.pop()
            domains = self.space.domains(codes)
            still_open = (codes == OPEN).any(0).nonzero().flatten()
            if not len(still_open):
                codes = codes[self.holds(codes)]
                if len(codes):
                    return codes
                continue
            hole = int(still_open[0])
            row, option = domains[:, hole].nonzero(as_tuple=True)
            children = codes[row]
            children[:, hole] = option
            children = children[self.space.feasible(children)]
            bounded += len(children)
            children = children[self.possible(self.space.domains(children))]
            stack.extend(children.split(chunk))
        return torch.empty(0, len(self.space.holes), dtype=torch.long)


def quantity(text: str, space: SearchSpace) -> Callable[[Int[Tensor, "batch holes"]], Float[Tensor, " batch"]]:
    """An expression such as `count(skip_connect) + 2 * depth` as a function of complete encodings.

    Raises:
        ValueError: If the text is no sum of costs and counts of this space.
    """
    reader = Constraint(f"{text} >= 0", space)
    linear = reader._linear(ast.parse(text, mode="eval").body)
    return lambda codes: reader._values(codes)(linear)


def _normalize(atom: Atom) -> Atom | Junction:
    """The comparison in the unit of its largest factor, so that TOLERANCE means the same however it is written.

    Depths and counts are whole numbers: `depth < 5` becomes `depth <= 4`, which bounds can tell from `depth <= 5`.
    """
    left, compare = atom.left, atom.compare
    factors = [factor for _, factor in left.terms]
    unit = 1 / max(map(abs, factors))
    whole = all(name == "depth" for name, _ in left.costs) and all(factor.is_integer() for factor in factors)
    whole = whole and not left.bounds
    if not whole or compare == "!=":
        return Atom(left.times(unit), compare)
    constant = round(left.constant, 9)
    ends = {"<": floor(constant) + 1, "<=": ceil(constant), ">": ceil(constant) - 1, ">=": floor(constant)}
    parts = tuple(
        Atom(replace(left, constant=float(ends[end])).times(unit), end.rstrip("=") + "=")
        for end in (("<=", ">=") if compare == "==" else (compare,))
    )
    return parts[0] if len(parts) == 1 else Junction(True, parts)


def _node_by_node(space: SearchSpace, most: int = 20_000) -> Int[Tensor, "nodes choices holes"] | None:
    """All fillings of one node after the other, the rest as in one member, which also pads; None if too many."""
    base = space.sample(1, torch.Generator().manual_seed(0))
    blocks = []
    for node in dict.fromkeys(hole.span for hole in space.holes):
        block = base.clone()
        own = [index for index, hole in enumerate(space.holes) if hole.span == node]
        block[:, own] = OPEN
        for index in own:
            row, option = space.domains(block)[:, index].nonzero(as_tuple=True)
            block = block[row]
            block[:, index] = option
            if len(block) > most:
                return None
        blocks.append(torch.cat([base, block]))
    longest = max(map(len, blocks))
    return torch.stack([torch.cat([block, base.expand(longest - len(block), -1)]) for block in blocks])


def _alternatives(part: Atom | Junction) -> list[list[Atom]]:
    """Conjunctions, one of which holds where the formula does; cut off behind `MOST_ALTERNATIVES`."""
    if isinstance(part, Atom):
        return [[part]]
    parts = [_alternatives(child) for child in part.parts]
    joined = map(chain.from_iterable, product(*parts)) if part.every else chain.from_iterable(parts)
    return [list(atoms) for atoms in islice(joined, MOST_ALTERNATIVES + 1)]


def _exclude(one: tuple[float, Tensor], other: tuple[float, Tensor]) -> bool:
    """Whether a sum of two forms with positive factors is above zero everywhere; its least value is concave."""
    scales = [changes.abs().max().item() or 1.0 for _, changes in (one, other)]

    def least(share: float) -> tuple[float, float]:
        a, b = share / scales[0], (1 - share) / scales[1]
        return a * one[0] + b * other[0] + (a * one[1] + b * other[1]).amin(-1).sum().item(), share

    low, high = 0.0, 1.0
    for _ in range(16):
        shares = [low + (high - low) * quarter / 4 for quarter in range(5)]
        total, share = max(map(least, shares))
        if total > TOLERANCE / 4 * max(share / scales[0], (1 - share) / scales[1]):
            return True
        low, high = max(low, share - (high - low) / 4), min(high, share + (high - low) / 4)
    return False


def _as_operand(confidence: re.Match[str]) -> str:
    """`@ 90%`, which Python cannot read, as `@ 0.9`."""
    return f"@ {float(confidence[1]) / 100!r}"


def _spell(value: Value) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _all_open(space: SearchSpace) -> Int[Tensor, "1 holes"]:
    return torch.full((1, len(space.holes)), OPEN)


def _distance(value: Tensor, compare: str) -> Tensor:
    """How far a value is from comparing with zero as asked; a strict comparison missed by nothing counts a little."""
    gap = {"<=": value, "<": value, ">=": -value, ">": -value, "==": value.abs(), "!=": -value.abs()}[compare]
    met = gap < -TOLERANCE if compare in ("<", ">", "!=") else gap <= TOLERANCE
    return torch.where(met, 0.0, gap.clamp_min(TOLERANCE))


def _fold(
    part: Atom | Junction,
    leaf: Callable[[Atom], Tensor],
    every: Callable[[Tensor, Tensor], Tensor],
    either: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    if isinstance(part, Atom):
        return leaf(part)
    values = [_fold(child, leaf, every, either) for child in part.parts]
    result = values[0]
    for value in values[1:]:
        result = every(result, value) if part.every else either(result, value)
    return result


def _best(codes: Tensor, score: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    order = score.argsort(stable=True)[:keep]
    return codes[order], score[order]


def neighbours(space: SearchSpace, codes: Int[Tensor, "batch holes"]) -> Int[Tensor, "more holes"]:
    """Every change of one hole; those that a changed condition switches on or off get their first option."""
    hole, option = space.option_mask.nonzero(as_tuple=True)
    trial = codes.repeat_interleave(len(hole), 0)
    rows = torch.arange(len(trial))
    trial[rows, hole.repeat(len(codes))] = option.repeat(len(codes))
    for index, one in enumerate(space.holes):
        if one.when is not None:
            active = torch.isin(trial[:, one.when[0]], torch.tensor(sorted(one.when[1])))
            trial[:, index] = torch.where(active, trial[:, index].clamp_min(1), 0)
    return trial
