"""Beams: what a text most probably means, by beam search under the grammar of requests."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from archgen.reading import BEGIN, DONE, INDEX, LONGEST, PAD, START, TOKENS, transitions

BEAM = 6
FAINT = 1e-3  # beams that are less probable than this share of the best are given up


class CachedLayer:
    """One block of the reader that takes one token more at a time; what it saw before is kept.

    Args:
        layer: Whose weights are used; it normalizes first.
        memory: Tokens of the texts.
        mask: Where they are.
    """

    def __init__(
        self,
        layer: nn.TransformerDecoderLayer,
        memory: Float[Tensor, "texts tokens width"],
        mask: Bool[Tensor, "texts tokens"],
    ):
        self.layer, self.heads = layer, layer.self_attn.num_heads
        cross, width = layer.multihead_attn, memory.shape[-1]
        self.asks = cross.in_proj_weight[:width], cross.in_proj_bias[:width]
        told = F.linear(memory, cross.in_proj_weight[width:], cross.in_proj_bias[width:])
        self.told = [self._split(part) for part in told.chunk(2, -1)]  # keys and values, (texts, heads, tokens, ...)
        self.mask = mask[:, None, None]
        self.written: list[Tensor] = []  # keys and values, (texts, beams, heads, length, ...)

    def _split(self, x: Tensor) -> Tensor:
        """Heads apart: `(..., length, width)` to `(..., heads, length, width / heads)`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    def __call__(self, h: Float[Tensor, "texts beams width"]) -> Float[Tensor, "texts beams width"]:
        """What follows from one more token of each beam."""
        layer = self.layer
        h = h + self._of_written(layer.norm1(h))
        asked = self._split(F.linear(layer.norm2(h), *self.asks))
        found = F.scaled_dot_product_attention(asked, *self.told, attn_mask=self.mask)
        h = h + layer.multihead_attn.out_proj(found.transpose(1, 2).flatten(2))
        return h + layer.linear2(layer.activation(layer.linear1(layer.norm3(h))))

    def _of_written(self, h: Tensor) -> Tensor:
        own = self.layer.self_attn
        query, *new = F.linear(h, own.in_proj_weight, own.in_proj_bias)[..., None, :].chunk(3, -1)
        new = [self._split(part) for part in new]
        joined = zip(self.written, new, strict=True)
        self.written = [torch.cat(pair, -2) for pair in joined] if self.written else new
        return own.out_proj(F.scaled_dot_product_attention(self._split(query), *self.written).flatten(2))

    def keep(self, texts: Tensor, beams: Tensor) -> None:
        """Go on with these texts, and with these of their beams."""
        self.told = [part[texts] for part in self.told]
        self.mask = self.mask[texts]
        self.written = [part[texts[:, None], beams] for part in self.written]


def search(
    layers: list[CachedLayer],
    logits: Callable[[Tensor], Tensor],
    embed: Callable[[Tensor, int], Tensor],
    admit: Bool[Tensor, "texts vocabulary"],
    begin: int = BEGIN,
) -> tuple[Int[Tensor, "texts beams length"], Float[Tensor, "texts beams"]]:
    """The most probable sequences of tokens for each text, and their log-probabilities.

    Args:
        layers: Of the reader, with the texts.
        logits: Of the next token, from what the last layer says.
        embed: Of the last tokens written, with their position.
        admit: Which tokens may stand for each text at all.
        begin: State of the grammar before the first token.
    """
    count, device = len(admit), admit.device
    table = transitions().to(device)
    written = torch.full((count, BEAM, LONGEST), INDEX[PAD], device=device)
    written[:, :, 0] = INDEX[START]
    score = torch.full((count, BEAM), -torch.inf, device=device)
    score[:, 0] = 0
    final, state = score.clone(), torch.full((count, BEAM), begin, device=device)
    going, row = torch.arange(count, device=device), torch.arange(count, device=device)[:, None]
    for place in range(1, LONGEST):
        h = embed(written[going, :, place - 1], place - 1)
        for layer in layers:
            h = layer(h)
        allowed = (table[state] >= 0) & admit[going][:, None]
        log = torch.where(allowed, logits(h), -torch.inf).log_softmax(-1)
        over = (state == DONE)[..., None]
        log = torch.where(over, torch.full_like(log, -torch.inf), log)
        log[..., INDEX[PAD]] = torch.where(over[..., 0], 0.0, log[..., INDEX[PAD]])
        total, flat = (score[..., None] + log).flatten(1).topk(BEAM, -1)
        beam, token = flat // len(TOKENS), flat % len(TOKENS)
        written[going] = written[going[:, None], beam]
        written[going, :, place] = token
        before = state[row, beam]
        state = torch.where(before == DONE, before, table[before, token]).clamp_min(BEGIN)
        score = total.masked_fill(total < total[:, :1] + math.log(FAINT), -torch.inf)
        final[going] = score.masked_fill(state != DONE, -torch.inf)
        left = ((state != DONE) & score.isfinite()).any(-1).nonzero().flatten()
        if not len(left):
            break
        for layer in layers:
            layer.keep(left, beam[left])
        going, state, score, row = going[left], state[left], score[left], row[: len(left)]
    return written[..., 1:], final
