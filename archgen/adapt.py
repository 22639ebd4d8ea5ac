"""What a denoiser knows, taken over to another space or to other conditions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from archgen.denoiser import GraphDenoiser, template_relations, template_words
from archgen.graph import Value
from archgen.space import Hole, SearchSpace


@torch.no_grad()
def adapted(denoiser: GraphDenoiser, old: SearchSpace, space: SearchSpace, conditions: list[str]) -> GraphDenoiser:
    """A network of the same size for another space or other conditions that starts from what this one knows.

    The blocks are taken over, and with them what both have: words by kind and option, holes by name or else by place
    among their kind, relations of holes, conditions by name. The rest is drawn anew from torch's global generator. A
    condition that is added leaves all predictions without it as they were, up to rounding.

    Args:
        denoiser: The network.
        old: Its space.
        space: Where the new one will work.
        conditions: Names of the properties it can be asked for.
    """
    if denoiser.later is not None:
        return adapted(denoiser.later, old, space, conditions)
    config = denoiser.config
    new = GraphDenoiser.for_space(space, conditions, width=config.width, depth=config.depth, heads=config.heads)
    before = _rows(old, config.conditions, [hole.name for hole in old.holes])
    after = _rows(space, conditions, _counterparts(old, space))
    source, target = denoiser.state_dict(), new.state_dict()
    for name, tensor in target.items():
        table = next((prefix for prefix in before if name.startswith(prefix)), None)
        if table is not None:
            place = {key: row for row, key in enumerate(before[table])}
            pairs = [(place[key], row) for row, key in enumerate(after[table]) if key in place]
            there, here = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
            tensor.view(len(after[table]), -1)[here] = source[name].view(len(before[table]), -1)[there]
        elif name not in ("word_of", "valid", "relation_of"):
            tensor.copy_(source[name])
    return new


def _padded(hole: Hole, space: SearchSpace) -> list[Value | None]:
    return [*hole.options] + [None] * (space.n_options - len(hole.options))


def _counterparts(old: SearchSpace, space: SearchSpace) -> list[str]:
    """For each hole of a space the old one that it takes after: of its name, or at the same place among its kind."""
    alike = {kind: [hole.name for hole in old.holes if hole.kind == kind] for kind in {h.kind for h in space.holes}}
    total = Counter(hole.kind for hole in space.holes)
    seen: Counter[str] = Counter()
    names = []
    for hole in space.holes:
        found = alike[hole.kind]
        place = seen[hole.kind] / max(1, total[hole.kind] - 1) * (len(found) - 1)
        names.append(hole.name if hole.name in found or not found else found[round(place)])
        seen[hole.kind] += 1
    return names


def _rows(space: SearchSpace, conditions: Sequence[str], holes: list[str]) -> dict[str, list]:
    """What the rows of the parameters stand for, by the beginning of their names; `holes` names those of the space."""
    words = template_words(space)
    places = list(zip(holes, space.holes, strict=True))
    return {
        "embed_word": words,
        "head.": words,
        "embed_hole": holes,
        "head_bias": [(name, option) for name, hole in places for option in _padded(hole, space)],
        "embed_relation": template_relations(space).unique().tolist(),
        **{f"embed_condition.{part}": list(conditions) for part in ("project", "absent", "knots")},
    }
