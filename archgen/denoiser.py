"""GraphDenoiser: the one network. It fills the holes of any search space, under any subset of its conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin  # by name: from_pretrained looks it up in this module
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from archgen.graph import Value
from archgen.space import OPEN, SearchSpace

Text = tuple[Float[Tensor, "batch tokens channels"], Bool[Tensor, "batch tokens"]]  # tokens, and where they are
FREQUENCIES = 8  # of the sine and cosine features of a condition's ends
TAIL = 10.0  # log-odds of a quantile are cut here: the top 1 in 22,000


def quantile_levels() -> Float[Tensor, " knots"]:
    """Levels at which the distribution of a condition is kept: even in the middle, geometric in both tails."""
    tail = torch.logspace(-5, math.log10(0.02), 24, dtype=torch.float64)
    return torch.cat([torch.zeros(1), tail, torch.linspace(0.03, 0.97, 48), 1 - tail.flip(0), torch.ones(1)]).float()


class ConditionEmbedding(nn.Module):
    """Embeds one interval per condition, given in its own units; absent ones get a learned vector.

    An end of an interval enters as its position between the least and the largest value, as the log-odds of its
    quantile, so that both equal steps and the extreme tails are told apart, and, for what can be counted while holes
    are open, as its position in the range that is still within reach: what is left of the budget.

    Args:
        n_conditions: Number of conditions.
        width: Channels of the result.
    """

    def __init__(self, n_conditions: int, width: int):
        super().__init__()
        levels = quantile_levels()
        self.register_buffer("levels", levels)
        self.register_buffer("knots", torch.linspace(0, 1, len(levels)).repeat(n_conditions, 1))
        self.project = nn.Parameter(torch.randn(n_conditions, 6 * (2 * FREQUENCIES + 1), width) * 0.05)
        self.absent = nn.Parameter(torch.zeros(n_conditions, width))
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def coordinates(self, value: Float[Tensor, "batch conditions"]) -> Float[Tensor, "2 batch conditions"]:
        """Linear position and scaled log-odds of the quantile, each within [0, 1] for values seen in training."""
        knots = self.knots.T.contiguous().T  # (C, K)
        low, high = knots[:, 0], knots[:, -1]
        value = torch.minimum(torch.maximum(value, low), high)
        right = torch.searchsorted(knots.contiguous(), value.T.contiguous()).clamp(1, knots.shape[1] - 1)  # (C, B)
        x0, x1 = knots.gather(1, right - 1), knots.gather(1, right)
        share = ((value.T - x0) / (x1 - x0).clamp_min(1e-12)).clamp(0, 1)
        level = torch.lerp(self.levels[right - 1], self.levels[right], share).T  # (B, C)
        odds = torch.logit(level, eps=1e-5).clamp(-TAIL, TAIL) / (2 * TAIL) + 0.5
        return torch.stack([(value - low) / (high - low).clamp_min(1e-12), odds])

    def forward(
        self,
        intervals: Float[Tensor, "#batch conditions 2"],
        reachable: Float[Tensor, "batch conditions 2"] | None = None,
    ) -> Float[Tensor, "... width"]:
        """Sum of what is known.

        Args:
            intervals: Least and largest admitted value, infinite where open; NaN where the condition is absent.
            reachable: Least and largest value that any completion can have; NaN where nobody knows.
        """
        known = ~intervals.isnan().any(-1)
        ends = torch.where(known[..., None], intervals, 0.0)
        position = torch.cat([self.coordinates(ends[..., 0]), self.coordinates(ends[..., 1])]).movedim(
            0, -1
        )  # (B, C, 4)
        if reachable is None:
            left = position.new_zeros(*position.shape[:-1], 2)
        else:
            low, high = reachable[..., :1], reachable[..., 1:]
            left = ((ends - low + 1e-6) / (high - low + 2e-6)).clamp(-0.5, 1.5)  # one option left: 1/2 fits
            left = torch.where(left.isnan(), 0.0, left / 2 + 0.25)
            position = position.expand(*left.shape[:-1], 4)
        position = torch.cat([position, left], -1)
        angles = position[..., None] * (math.pi * 2.0 ** torch.arange(FREQUENCIES, device=position.device))
        features = torch.cat([position, angles.sin().flatten(-2), angles.cos().flatten(-2)], -1)
        embedded = torch.einsum("bcf,cfw->bcw", features, self.project)
        return self.mix(torch.where(known[..., None], embedded, self.absent).sum(1))


class Block(nn.Module):
    """Pre-norm transformer block whose norms are scaled, shifted and gated by the conditions (Peebles & Xie, 2023).

    Args:
        width: Channels.
        heads: Attention heads.
        text_width: Channels of the tokens of a text, to which holes attend; none if 0.
    """

    def __init__(self, width: int, heads: int, text_width: int = 0):
        super().__init__()
        self.heads = heads
        if text_width:
            self.ask, self.tell = nn.Linear(width, width), nn.Linear(text_width, 2 * width)
            self.hear = nn.Linear(width, width)
        self.modulate = nn.Linear(width, 6 * width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(
        self,
        h: Float[Tensor, "batch holes width"],
        condition: Float[Tensor, "batch width"],
        bias: Float[Tensor, "heads holes holes"],
        text: Text | None = None,
    ) -> Float[Tensor, "batch holes width"]:
        """Attend among the holes, then to the text, then transform each."""
        batch, holes, width = h.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(condition)[:, None].chunk(6, -1)
        x = F.layer_norm(h, (width,)) * (1 + scale1) + shift1
        q, k, v = self.qkv(x).view(batch, holes, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, H, C)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(batch, holes, width)
        h = h + (1 + gate1) * self.out(attended)
        if text is not None:
            q = self.ask(F.layer_norm(h, (width,))).view(batch, holes, self.heads, -1).transpose(1, 2)
            k, v = self.tell(text[0]).view(batch, -1, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            heard = F.scaled_dot_product_attention(q, k, v, attn_mask=text[1][:, None, None])
            h = h + self.hear(heard.transpose(1, 2).reshape(batch, holes, width))
        x = F.layer_norm(h, (width,)) * (1 + scale2) + shift2
        return h + (1 + gate2) * self.contract(F.gelu(self.expand(x), approximate="tanh"))


class GraphDenoiser(ModelMixin, ConfigMixin):
    """Graph transformer over the holes of a search space that predicts what fills each of them.

    A hole is a token: what it holds, which hole it is. How two holes lie in the template graph (same node, edge and
    its end, before or after on some path) biases their attention.

    Args:
        words: For each hole the word of each option; -1 where the hole has fewer. Holes of a kind share words.
        relations: For each pair of holes the class of their relation in the template.
        conditions: Names of the conditions, in the order of `forward`'s intervals.
        width: Channels of the residual stream.
        depth: Number of blocks.
        heads: Attention heads; divides `width`.
        known: How many of the conditions there were before each fine-tuning. The parameters of then stay as they are
            and answer whatever names no later condition; a network of its own, `later`, answers the rest.
        text_width: Channels of the tokens of a text that it can be told; none if 0.
        hears: Whose tokens these are, see `ArchBERT.heard_sha256`.
    """

    @register_to_config
    def __init__(
        self,
        words: list[list[int]],
        relations: list[list[int]],
        conditions: list[str],
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        known: list[int] | None = None,
        text_width: int = 0,
        hears: str = "",
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"the attention heads divide the width, got {heads} heads and a width of {width}")
        table = torch.tensor(words)
        self.register_buffer("word_of", table.clamp_min(0))
        self.register_buffer("valid", table >= 0)
        self.register_buffer("relation_of", torch.tensor(relations))
        n_words = int(table.max()) + 1
        self.embed_word = nn.Embedding(n_words, width)
        self.embed_hole = nn.Embedding(len(words), width)
        self.embed_open = nn.Parameter(torch.randn(width) * 0.02)
        self.embed_relation = nn.Embedding(int(self.relation_of.max()) + 1, heads)
        self.embed_time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_condition = ConditionEmbedding(known[0] if known else len(conditions), width)
        self.blocks = nn.ModuleList(Block(width, heads, text_width) for _ in range(depth))
        if text_width:
            self.nothing_said = nn.Parameter(torch.zeros(text_width))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Embedding(n_words, width)
        self.head_bias = nn.Parameter(torch.zeros(table.shape))
        nn.init.zeros_(self.embed_relation.weight)
        nn.init.normal_(self.embed_word.weight, std=0.5)
        nn.init.normal_(self.embed_hole.weight, std=0.5)
        nn.init.normal_(self.head.weight, std=0.02)
        rest = (words, relations, conditions, width, depth, heads)
        self.later = GraphDenoiser(*rest, known[1:]) if known else None

    @classmethod
    def for_space(cls, space: SearchSpace, conditions: list[str], **size: Any) -> GraphDenoiser:
        """A fresh network for a space.

        Args:
            space: Where it will work.
            conditions: Names of the properties it can be asked for.
            **size: `width`, `depth`, `heads`, `text_width`, `hears`.
        """
        index = {pair: word for word, pair in enumerate(template_words(space))}
        words = [
            [index[hole.kind, option] for option in hole.options] + [-1] * (space.n_options - len(hole.options))
            for hole in space.holes
        ]
        code = template_relations(space)
        relations = torch.searchsorted(code.unique(), code)
        return cls(words, relations.tolist(), list(conditions), **size)

    def followed_by(self, later: GraphDenoiser) -> GraphDenoiser:
        """Both networks as one: this for what it knows, the other for what names a condition that only that one knows.

        Args:
            later: A network of the same space and size whose first conditions are all of this one's.
        """
        known = [*(self.config.known or ()), len(self.config.conditions)]
        own = {name: self.config[name] for name in ("words", "relations", "width", "depth", "heads")}
        both = GraphDenoiser(**own, conditions=later.config.conditions, known=known)
        prefix = "later." * len(known)
        both.load_state_dict(self.state_dict() | {prefix + name: value for name, value in later.state_dict().items()})
        return both.to(self.device)

    def set_distribution(self, values: Mapping[str, Float[Tensor, " rows"]]) -> None:
        """Tell the conditions how their values are distributed.

        Args:
            values: For conditions a sample of their values, in their own units, without NaN; others stay as they are.
        """
        embedding = self.embed_condition
        levels = embedding.levels.double()
        for name, value in values.items():
            row = self.config.conditions.index(name)
            embedding.knots[row] = torch.quantile(value.double()[:1_000_000], levels).to(embedding.knots)

    def quantiles(self, name: str, level: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Values of a condition below which these shares of what it was learned from lie."""
        if self.later is not None:
            return self.later.quantiles(name, level)
        embedding = self.embed_condition
        knots = embedding.knots[self.config.conditions.index(name)].double().cpu()
        levels = embedding.levels.double().cpu()
        level = level.double()
        right = torch.searchsorted(levels, level).clamp(1, len(levels) - 1)
        share = (level - levels[right - 1]) / (levels[right] - levels[right - 1])
        return torch.lerp(knots[right - 1], knots[right], share)

    def quantile(self, name: str, level: float) -> float:
        """Value of a condition below which this share of what it was learned from lies."""
        return float(self.quantiles(name, torch.tensor([level], dtype=torch.float64)))

    def forward(
        self,
        x: Int[Tensor, "batch holes"] | Float[Tensor, "batch holes options"],
        t: Float[Tensor, " batch"] | None = None,
        intervals: Float[Tensor, "#batch conditions 2"] | None = None,
        reachable: Float[Tensor, "batch conditions 2"] | None = None,
        text: Text | None = None,
    ) -> Float[Tensor, "batch holes options"]:
        """Predict logits of the clean options.

        Args:
            x: Codes with `OPEN` where a hole is open, or noisy one-hot options.
            t: Noise level in [0, 1]; not needed for codes, which show it.
            intervals: What is asked of each condition, in its units: least and largest value; NaN where nothing is.
            reachable: What each condition can still become, as far as that can be counted; see `reachable_range`.
            text: Tokens of what is asked for in words, if the network can be told.

        Returns:
            Logits, minus infinity where a hole has no such option.
        """
        if intervals is None:
            intervals = self.embed_open.new_full((1, len(self.config.conditions), 2), torch.nan)
        if self.later is None:
            return self._answer(x, t, intervals, reachable, text)
        known = len(self.embed_condition.knots)
        fresh = ~intervals[:, known:].isnan().flatten(1).all(-1)  # (1,) or (B,)
        if fresh.all():
            return self.later(x, t, intervals, reachable)
        answer = self._answer(x, t, intervals[:, :known], None if reachable is None else reachable[:, :known])
        if fresh.any():
            answer = torch.where(fresh[:, None, None], self.later(x, t, intervals, reachable), answer)
        return answer

    def _answer(
        self,
        x: Int[Tensor, "batch holes"] | Float[Tensor, "batch holes options"],
        t: Float[Tensor, " batch"] | None,
        intervals: Float[Tensor, "#batch conditions 2"],
        reachable: Float[Tensor, "batch conditions 2"] | None,
        text: Text | None = None,
    ) -> Float[Tensor, "batch holes options"]:
        """What this network itself predicts, see `forward`."""
        h = self.represent(x, t, intervals, reachable, text)
        logits = torch.einsum("bhc,hoc->bho", h, self.head(self.word_of)) + self.head_bias
        return logits.masked_fill(~self.valid, -torch.inf)

    def represent(
        self,
        x: Int[Tensor, "batch holes"] | Float[Tensor, "batch holes options"],
        t: Float[Tensor, " batch"] | None,
        intervals: Float[Tensor, "#batch conditions 2"],
        reachable: Float[Tensor, "batch conditions 2"] | None = None,
        text: Text | None = None,
    ) -> Float[Tensor, "batch holes width"]:
        """What this network itself knows of each hole, from which it is filled; see `forward`."""
        words = self.embed_word(self.word_of)  # (H, O, C)
        if x.is_floating_point():
            h = torch.einsum("bho,hoc->bhc", x, words)
        else:
            holes = torch.arange(x.shape[1], device=x.device)
            h = torch.where((x == OPEN)[..., None], self.embed_open, words[holes, x.clamp_min(0)])
        h = h + self.embed_hole.weight
        condition = self.embed_condition(intervals.to(h.dtype), reachable).expand(len(h), -1)
        if t is not None:
            condition = condition + self.embed_time(get_timestep_embedding(1000 * t, self.config.width))
        condition = F.silu(condition)
        bias = self.embed_relation(self.relation_of).permute(2, 0, 1)  # (heads, H, H)
        if self.config.text_width:
            text = self._heard(text, len(h))
        for block in self.blocks:
            h = block(h, condition, bias, text)
        return self.norm(h)

    def _heard(self, text: Text | None, batch: int) -> Text:
        """The tokens of the text behind one that is always there, so that silence can be attended to."""
        nothing = self.nothing_said.expand(batch, 1, -1)
        there = torch.ones(batch, 1, dtype=torch.bool, device=nothing.device)
        if text is None:
            return nothing, there
        tokens, mask = (part.expand(batch, *part.shape[1:]) for part in text)
        return torch.cat([nothing, tokens], 1), torch.cat([there, mask], 1)


def reachable_range(
    space: SearchSpace, codes: Int[Tensor, "batch holes"], conditions: list[str]
) -> Float[Tensor, "batch conditions 2"]:
    """Bounds of every condition over the completions of partial codes; NaN for what is measured, not counted."""
    result = torch.full((len(codes), len(conditions), 2), torch.nan)
    counted = [(index, name) for index, name in enumerate(conditions) if name in space.cost.names]
    if counted:
        bounds = space.cost.bounds(space.domains(codes.cpu()))
        for index, name in counted:
            result[:, index] = torch.stack(bounds[name], -1).float()
    return result.to(codes.device)


def template_words(space: SearchSpace) -> list[tuple[str, Value]]:
    """Kind and option of every word of a space, in the order of their first use."""
    return list(dict.fromkeys((hole.kind, option) for hole in space.holes for option in hole.options))


def template_relations(space: SearchSpace) -> Int[Tensor, "holes holes"]:
    """Relation of every pair of holes, as bits: equal ends, which can come before the other, whether an edge joins."""
    n = len(space.slots)
    step = torch.zeros(n, n, dtype=torch.bool)
    for source, target in (*space.edges, *space.open_edges):
        step[source, target] = True
    reach = step.clone()
    for middle in range(n):
        reach |= reach[:, middle, None] & reach[middle]
    first, last = (torch.tensor([hole.span[end] for hole in space.holes]) for end in (0, 1))
    bits = [
        first[:, None] == first,
        last[:, None] == last,
        last[:, None] == first,
        first[:, None] == last,
        step[last[:, None], first],
        step[last[None, :], first[:, None]],
        reach[last[:, None], first],
        reach[last[None, :], first[:, None]],
    ]
    return sum(bit.long() << shift for shift, bit in enumerate(bits))
