"""ArchBERT: text and architectures in one space, and a reader that turns text into predicates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import DirGNNConv, SAGEConv
from torch_geometric.utils import to_dense_batch
from transformers import BertConfig, BertModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from archgen.beams import CachedLayer, search
from archgen.graph import Architecture, to_batch
from archgen.hub import component, reading
from archgen.numerals import Mention
from archgen.reading import BEGIN, END, KINDS, LONGEST, PAD, TOKENS, admitted, plausible, prepared, requested
from archgen.space import SearchSpace, load_space
from archgen.spelling import Speller
from archgen.vocabulary import ATTRIBUTES, Request, check_words

MOST_TOKENS = 256  # of a text; the rest is not read
TOGETHER = 64  # texts of similar length that are read at once
NODES = 16  # positions of nodes that are told apart

Tokens = tuple[Float[Tensor, "1 tokens width"], Bool[Tensor, "1 tokens"]]  # as reader and fine score see them


class ArchBERTConfig(PretrainedConfig):
    """Sizes of an `ArchBERT`.

    Args:
        bert: Settings of the text encoder, as `BertConfig` takes them.
        labels: Names of the operations and attribute values that architectures are made of.
        tokens: What the reader writes; all of `archgen.reading.TOKENS` if absent.
        width: Channels of nodes, of the reader and of the fine score.
        shared: Dimensions of the space that text and architectures share.
        depth: Rounds of messages between nodes, and blocks of reader and fine score.
    """

    model_type = "archbert"

    def __init__(
        self,
        bert: dict[str, Any] | None = None,
        labels: Sequence[str] = (),
        tokens: Sequence[str] = tuple(TOKENS),
        width: int = 192,
        shared: int = 256,
        depth: int = 3,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.bert, self.labels, self.tokens = bert or {}, list(labels), list(tokens)
        self.width, self.shared, self.depth = width, shared, depth


@dataclass(frozen=True)
class Reading:
    """One way to understand a text.

    Attributes:
        kind: `request`, `unknown`, `unrelated`, `how` or `whether`, see `archgen.caption.Text`.
        request: What is asked for, or asked about.
        probability: That this is what was meant, of all that the reader considered.
    """

    kind: str
    request: Request
    probability: float


class GraphEncoder(nn.Module):
    """Message passing along and against the edges of architectures.

    Args:
        n_labels: Operations and attribute values.
        width: Channels of a node.
        depth: Rounds of messages.
    """

    def __init__(self, n_labels: int, width: int, depth: int):
        super().__init__()
        self.embed = nn.Embedding(n_labels + 1, width)  # the last one: masked
        self.place = nn.Embedding(NODES, width)
        self.rounds = nn.ModuleList(DirGNNConv(SAGEConv(width, width, aggr="sum")) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth + 1))

    def forward(
        self, graphs: Data, rows: Int[Tensor, " labels"], masked: Bool[Tensor, " nodes"] | None = None
    ) -> tuple[Float[Tensor, "graphs most width"], Bool[Tensor, "graphs most"]]:
        """Embeddings of the nodes, padded to the largest graph, and where they are.

        Args:
            graphs: A batch with one-hot labels of one space.
            rows: Which label of the model each label of the space is.
            masked: Nodes whose labels are hidden.
        """
        h = graphs.x @ self.embed(rows)
        if masked is not None:
            h = torch.where(masked[:, None], self.embed.weight[-1], h)
        first = graphs.ptr[graphs.batch]
        h = h + self.place((torch.arange(len(h), device=h.device) - first).clamp(max=NODES - 1))
        for norm, message in zip(self.norms, self.rounds, strict=False):
            h = h + F.silu(message(norm(h), graphs.edge_index))
        return to_dense_batch(self.norms[-1](h), graphs.batch)


class ArchBERT(PreTrainedModel):
    """A text encoder and a graph encoder that share a space, a fine score of pairs, and a reader of requests.

    After ArchBERT (Akbari et al., CoNLL 2023, arXiv 2310.17737), with cross-attention between tokens and nodes, a
    contrastive loss over all architectures that a text is true of, and predicates as the meaning of texts.

    Args:
        config: Sizes.
    """

    config_class = ArchBERTConfig
    tokenizer: PreTrainedTokenizerFast

    def __init__(self, config: ArchBERTConfig):
        super().__init__(config)
        width = config.width
        self.bert = BertModel(BertConfig(**config.bert), add_pooling_layer=False)
        hidden = self.bert.config.hidden_size
        self.graphs = GraphEncoder(len(config.labels), width, config.depth)
        self.text_head = nn.Linear(hidden, config.shared)
        self.graph_head = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, config.shared)
        )
        self.clone_head = nn.Linear(2 * width, config.shared)
        self.memory = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.tensor(math.log(20.0)))

        def blocks() -> nn.TransformerDecoder:
            layer = nn.TransformerDecoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            return nn.TransformerDecoder(
                layer,
                config.depth - 1,
                nn.LayerNorm(width),
            )

        self.reader, self.verifier = blocks(), blocks()
        self.token, self.position = nn.Embedding(len(config.tokens), width), nn.Embedding(LONGEST, width)
        self.token_head, self.score_head = nn.Linear(width, len(config.tokens)), nn.Linear(width, 1)
        self.label_head = nn.Linear(width, len(config.labels))  # of masked nodes
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The parts initialize themselves."""

    # ---- loading -------------------------------------------------------------------------------------------------
    @classmethod
    def load(cls, name: str | Path) -> ArchBERT:
        """A model with its tokenizer from a folder, or a shipped one by its name; nothing in it is executed.

        Tokens that were added since it was trained are never written by it.

        Raises:
            ValueError: If there is none, or it is damaged.
        """
        if (folder := component(name, "text")) is not None:
            with reading(folder), quiet():
                model = cls.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, local_files_only=True)
                model.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
                model._renew()
            return model.eval()
        raise ValueError(f"no text model {str(name)!r}: it is a folder with a config.json, or the name 'archbert'")

    @torch.no_grad()
    def _renew(self) -> None:
        """Give the reader the tokens of today in their order."""
        known, width = self.config.tokens, self.config.width
        if known == TOKENS:
            return
        rows = torch.tensor([known.index(token) if token in known else -1 for token in TOKENS])
        new = rows < 0
        embedding, head = nn.Embedding(len(TOKENS), width), nn.Linear(width, len(TOKENS))
        embedding.weight.copy_(self.token.weight[rows])
        head.weight.copy_(self.token_head.weight[rows].masked_fill(new[:, None], 0))
        head.bias.copy_(self.token_head.bias[rows].masked_fill(new, -torch.inf))
        self.token, self.token_head, self.config.tokens = embedding, head, list(TOKENS)

    # ---- text ----------------------------------------------------------------------------------------------------
    def tokens(self, texts: Sequence[str], space: str) -> tuple[dict[str, Tensor], list[list[Mention]]]:
        """Token ids and mask of texts, and the numbers of each."""
        pairs = [prepared(text, space) for text in texts]
        ids = self.tokenizer(
            [text for text, _ in pairs], padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt"
        )
        return {key: ids[key].to(self.device) for key in ("input_ids", "attention_mask")}, [n for _, n in pairs]

    @cached_property
    def speller(self) -> Speller:
        """Sets slips right towards the words that the corpus has, and leaves what the encoder knows."""
        return Speller(self.tokenizer.get_vocab())

    def length(self, text: str, space: str) -> int:
        """How many tokens a text has; no more than `MOST_TOKENS` are read."""
        return len(self.tokenizer(prepared(text, space)[0])["input_ids"])

    def encode_tokens(
        self, input_ids: Int[Tensor, "texts tokens"], attention_mask: Int[Tensor, "texts tokens"]
    ) -> tuple[Float[Tensor, "texts tokens width"], Float[Tensor, "texts shared"]]:
        """Tokens as reader and fine score see them, and the embedding of each text, of length one."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.float()
        mask = attention_mask[..., None].float()
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        return self.memory(hidden), F.normalize(self.text_head(pooled), dim=-1)

    def heard_sha256(self) -> str:
        """Of the weights that `encode_tokens` makes tokens with, in half precision as they are saved.

        A network that learned to hear these tokens hears no others.
        """
        digest = sha256()
        for part in (self.bert, self.memory):
            for name, weight in sorted(part.state_dict().items()):
                digest.update(name.encode() + weight.detach().half().cpu().numpy().tobytes())
        return digest.hexdigest()

    # ---- architectures -------------------------------------------------------------------------------------------
    @cached_property
    def _label_index(self) -> dict[str, int]:
        return {label: index for index, label in enumerate(self.config.labels)}

    def label_rows(self, space: SearchSpace) -> Int[Tensor, " labels"]:
        """Which label of the model each node label of a space is.

        Raises:
            ValueError: If the model does not know the space.
        """
        check_words(space.name)
        rows = [self._label_index[f"{name}={value}"] for name, value in space.node_labels]
        return torch.tensor(rows, device=self.device)

    def encode_graphs(
        self, graphs: Data, rows: Int[Tensor, " labels"], masked: Bool[Tensor, " nodes"] | None = None
    ) -> tuple[Float[Tensor, "graphs most width"], Bool[Tensor, "graphs most"], Float[Tensor, "graphs pooled"]]:
        """Nodes, where they are, and what is pooled of each architecture."""
        nodes, there = self.graphs(graphs, rows, masked)
        last = there.sum(-1) - 1
        ends = nodes[torch.arange(len(nodes), device=nodes.device), last]
        return nodes, there, torch.cat([(nodes * there[..., None]).sum(1) / 8, ends], -1)

    def _project(self, head: nn.Module, architectures: Sequence[Architecture], batch_size: int) -> Tensor:
        if len(spaces := {one.space.name for one in architectures}) != 1:
            raise ValueError(f"architectures of one space can be embedded, got {', '.join(sorted(spaces)) or 'none'}")
        rows, parts = self.label_rows(architectures[0].space), []
        for start in range(0, len(architectures), batch_size):
            graphs = to_batch(architectures[start : start + batch_size])
            parts.append(F.normalize(head(self.encode_graphs(graphs.to(self.device), rows)[2]), dim=-1))
        return torch.cat(parts)

    @torch.inference_mode()
    def embed(self, architectures: Sequence[Architecture], batch_size: int = 2048) -> Float[Tensor, "archs shared"]:
        """Embeddings of architectures of one space, near those of texts that are true of them."""
        return self._project(self.graph_head, architectures, batch_size)

    @torch.inference_mode()
    def clones(
        self, first: Sequence[Architecture], second: Sequence[Architecture], batch_size: int = 2048
    ) -> Float[Tensor, "first second"]:
        """How alike architectures of one space are: 1 if they are the same network, less the more they differ."""
        left, right = (self._project(self.clone_head, part, batch_size) for part in (first, second))
        place: dict[str, int] = {}
        left_id, right_id = (
            torch.tensor([place.setdefault(one.hash, len(place)) for one in part]) for part in (first, second)
        )
        return torch.where(left_id[:, None] == right_id, 1.0, (left @ right.T).cpu())

    @torch.inference_mode()
    def hear(self, texts: Sequence[str], space: str) -> tuple[list[Tokens], Float[Tensor, "texts shared"]]:
        """Texts about one space as the fine score sees them, and their embeddings."""
        found: dict[int, tuple[Tokens, Tensor]] = {}
        for part in together(texts):
            ids, _ = self.tokens([texts[index] for index in part], space)
            memory, embedded = self.encode_tokens(**ids)
            found |= zip(part, zip(unpadded(memory, ids["attention_mask"]), embedded, strict=True), strict=True)
        heard = [found[index] for index in range(len(texts))]
        return [tokens for tokens, _ in heard], torch.stack([embedded for _, embedded in heard])

    def match(
        self,
        nodes: Float[Tensor, "pairs most width"],
        there: Bool[Tensor, "pairs most"],
        memory: Float[Tensor, "texts tokens width"],
        mask: Int[Tensor, "texts tokens"],
    ) -> tuple[Float[Tensor, " pairs"], Float[Tensor, "pairs most width"]]:
        """Log-odds that texts are true of architectures, by cross-attention, and the nodes seen in their light.

        Args:
            nodes: Of architectures.
            there: Where they are.
            memory: Tokens of a text for each architecture, or of one for all.
            mask: Where they are.
        """
        if len(memory) < len(nodes):
            seen = self._seen_by_one(nodes, there, memory, mask)
        else:
            seen = self.verifier(nodes, memory, tgt_key_padding_mask=~there, memory_key_padding_mask=mask == 0)
        pooled = (seen * there[..., None]).sum(1) / there.sum(1, keepdim=True)
        return self.score_head(pooled)[:, 0], seen

    def _seen_by_one(
        self,
        nodes: Float[Tensor, "pairs most width"],
        there: Bool[Tensor, "pairs most"],
        memory: Float[Tensor, "1 tokens width"],
        mask: Int[Tensor, "1 tokens"],
    ) -> Float[Tensor, "pairs most width"]:
        """As the verifier sees them in the light of one text, whose keys and values are made once for all nodes."""
        h = nodes
        for layer in self.verifier.layers:
            x = layer.norm1(h)
            h = h + layer.self_attn(x, x, x, key_padding_mask=~there, need_weights=False)[0]
            asked = layer.norm2(h).flatten(0, 1)[None]
            told = layer.multihead_attn(asked, memory, memory, key_padding_mask=mask == 0, need_weights=False)[0]
            h = h + told[0].unflatten(0, nodes.shape[:2])
            h = h + layer.linear2(layer.activation(layer.linear1(layer.norm3(h))))
        return self.verifier.norm(h)

    def retold(
        self,
        graphs: Data,
        rows: Int[Tensor, " labels"],
        memory: Float[Tensor, "texts tokens width"],
        mask: Int[Tensor, "texts tokens"],
    ) -> Float[Tensor, " graphs"]:
        """Log-probability of all operations and attributes of architectures, guessed from their edges and a text.

        What masked architecture modelling learned from descriptions: it tells apart what is wired otherwise.

        Args:
            graphs: A batch of architectures.
            rows: Which label of the model each label of the space is.
            memory: Tokens of a text for each of them, or of one for all.
            mask: Where they are.
        """
        hidden = torch.ones(len(graphs.x), dtype=torch.bool, device=graphs.x.device)
        nodes, there, _ = self.encode_graphs(graphs, rows, hidden)
        _, seen = self.match(nodes, there, memory, mask)
        logits = self.label_head(seen[there])[:, rows]
        each = -F.binary_cross_entropy_with_logits(logits, graphs.x, reduction="none").sum(-1)
        return torch.zeros(len(graphs.ptr) - 1, device=each.device).index_add_(0, graphs.batch, each)

    # ---- reading -------------------------------------------------------------------------------------------------
    def next_tokens(
        self,
        written: Int[Tensor, "texts length"],
        memory: Float[Tensor, "texts tokens width"],
        mask: Int[Tensor, "texts tokens"],
    ) -> Float[Tensor, "texts length vocabulary"]:
        """Logits of the token that follows each of those written."""
        length = written.shape[1]
        h = self.token(written) + self.position.weight[:length]
        causal = torch.ones(length, length, dtype=torch.bool, device=h.device).triu(1)
        h = self.reader(h, memory, tgt_mask=causal, memory_key_padding_mask=mask == 0)
        return self.token_head(h)

    def read(self, texts: Sequence[str], space: str, begin: int = BEGIN) -> list[tuple[list[Reading], Tokens]]:
        """The most probable ways to understand each text, the best first, by beam search under the grammar.

        Args:
            texts: What users typed.
            space: Name of the space that is spoken of.
            begin: State of the grammar to begin in: `BEGIN`, or `QUESTION` if nothing else is admitted.

        Returns:
            For each text these, and its tokens as reader and fine score see them, with where they are.
        """
        found: dict[int, tuple[list[Reading], Tokens]] = {}
        for part in together(texts):
            found |= zip(part, self._read([texts[index] for index in part], space, begin), strict=True)
        return [found[index] for index in range(len(texts))]

    @torch.inference_mode()
    def _read(self, texts: Sequence[str], space: str, begin: int) -> list[tuple[list[Reading], Tokens]]:
        ids, numbers = self.tokens(texts, space)
        memory, _ = self.encode_tokens(**ids)
        admit = torch.stack([admitted(space, len(one)) for one in numbers]).to(self.device)
        layers = [CachedLayer(layer, memory, ids["attention_mask"] > 0) for layer in self.reader.layers]
        written, score = search(
            layers,
            lambda h: self.token_head(self.reader.norm(h)),
            lambda tokens, place: self.token(tokens) + self.position.weight[place],
            admit,
            begin,
        )
        readings = [self._readings(*found) for found in zip(written, score, numbers, strict=True)]
        return [*zip(readings, unpadded(memory, ids["attention_mask"]), strict=True)]

    @staticmethod
    def _readings(written: Tensor, score: Tensor, numbers: list[Mention]) -> list[Reading]:
        """The beams of one text, equal requests joined, none with an implausible number where there are others."""
        found: dict[tuple[str, Request], Reading] = {}
        for row in score.argsort(descending=True).tolist():
            if not score[row].isfinite():
                continue
            tokens = [TOKENS[index] for index in written[row].tolist() if TOKENS[index] not in (PAD, END)]
            kind = tokens[0] if tokens and tokens[0] in KINDS else "request"
            request = requested(kind, tokens, numbers)
            key = (kind, tuple(sorted(set(request), key=str)))
            first = found.get(key, Reading(kind, request, 0.0))
            found[key] = Reading(kind, first.request, first.probability + math.exp(score[row].item()))
        every = sorted(found.values(), key=lambda reading: -reading.probability)
        return [reading for reading in every if plausible(reading.request)] or every


def together(texts: Sequence[str]) -> Iterator[list[int]]:
    """Positions of texts, those of similar length that are encoded at once."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), TOGETHER):
        yield order[start : start + TOGETHER]


def unpadded(memory: Float[Tensor, "texts tokens width"], mask: Int[Tensor, "texts tokens"]) -> list[Tokens]:
    """Of each text its own tokens."""
    lengths = enumerate(mask.sum(-1).tolist())
    return [(memory[row : row + 1, :length], mask[row : row + 1, :length] > 0) for row, length in lengths]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's bars, which are over before they can be read."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def all_labels() -> list[str]:
    """Names of the node labels of all spaces that there are words for."""
    labels = [f"{name}={value}" for space in ATTRIBUTES for name, value in load_space(space).node_labels]
    return list(dict.fromkeys(labels))
