"""Trains the network that texts steer: it fills holes, and attends to the tokens of what was asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from archgen.checks import check_counts
from archgen.corpus import Corpus, Mixture
from archgen.denoiser import GraphDenoiser, Text
from archgen.descent import Descent
from archgen.hub import replacing_folder, resolve
from archgen.pipeline import ArchitecturePipeline
from archgen.processes import make_accelerator
from archgen.scheduler import AbsorbingScheduler
from archgen.text import ArchBERT
from archgen.vocabulary import facts_of

SILENCE = 0.1  # share of the texts that are dropped
EACH = 8  # architectures a text
CARD = ("README.md", "training.json", "results.json")  # what a checkpoint holds beside its parts


def train_told(
    checkpoint: str,
    out: str,
    text: str = "archbert",
    max_steps: int = 1500,
    batch_size: int = 64,
    lr: float = 1e-3,
    width: int = 64,
    depth: int = 4,
    seed: int = 0,
    save_every: int = 250,
    mixed_precision: str = "bf16",
) -> None:
    """Train the network that texts steer, and write a checkpoint with it.

    Started again with the same recipe, a run that was stopped goes on from its last saved step.

    Args:
        checkpoint: Folder or name of the generator's checkpoint, which is one of the absorbing process.
        out: Folder of the new one, with all that the other has; the state of the run is kept in `out/state`.
        text: The text model, whose tokens it attends to.
        max_steps: Optimizer steps.
        batch_size: Texts a step and process, each with 8 architectures that it is true of.
        lr: Largest learning rate.
        width: Channels of the network.
        depth: Its blocks.
        seed: Seed of everything drawn.
        save_every: Steps between saved states.
        mixed_precision: `no`, `bf16` or `fp16`.

    Raises:
        ValueError: If the recipe is at fault.
    """
    recipe = {name: value for name, value in locals().items() if name != "out"}
    check_counts(max_steps=max_steps, batch_size=batch_size, save_every=save_every, width=width, depth=depth)
    folder = Path(out)
    pipeline, reader = ArchitecturePipeline.load(checkpoint), ArchBERT.load(text)
    if not isinstance(pipeline.scheduler, AbsorbingScheduler):
        raise ValueError(f"texts steer the absorbing process alone, and {checkpoint} has another")
    corpus = Corpus(facts_of(pipeline.space.name), "without")
    accelerator = make_accelerator(folder / "state", mixed_precision, None, recipe)
    torch.manual_seed(seed)
    heard = {"text_width": reader.config.width, "hears": reader.heard_sha256()}
    network = GraphDenoiser.for_space(pipeline.space, [], width=width, depth=depth, **heard)
    reader.to(accelerator.device)
    state = folder / "state" / "told.pt"
    groups, warmup = [*network.parameters()], max_steps // 20
    descent = Descent(accelerator, network, groups, max_steps, warmup, state, recipe, save_every, lr, ema=0.999)
    for mark in descent.steps(seed):
        random = Random(mark)
        codes, told = batch(corpus, reader, batch_size, random, accelerator)
        descent.down({"loss": loss_of(descent.model, codes, told, random)})
    if accelerator.is_main_process:
        pipeline.register_modules(text_denoiser=descent.averaged())
        source, told = resolve(checkpoint), {"recipe": recipe, "seconds": round(descent.seconds, 1), **descent.losses}
        with replacing_folder(folder) as temporary:
            pipeline.save_pretrained(temporary)
            for name in CARD:
                if (source / name).is_file():
                    shutil.copy(source / name, temporary / name)
            facts = temporary / "training.json"
            known = json.loads(facts.read_text(encoding="utf-8")) if facts.is_file() else {}
            facts.write_text(json.dumps({**known, "told": told}, indent=1), encoding="utf-8")
        state.unlink(missing_ok=True)
    descent.end()


def batch(corpus: Corpus, reader: ArchBERT, size: int, random: Random, accelerator: Any) -> tuple[Tensor, Text]:
    """Texts, and architectures that each is true of.

    Returns:
        Codes `(texts * EACH, holes)`, and for each row the tokens of its text; of a tenth nothing is said.
    """
    facts, texts, rows = corpus.facts, [], []
    generator = torch.Generator().manual_seed(random.getrandbits(60))
    mixture = Mixture(unknown=0.0, unrelated=0.0, question=0.0)
    if random.random() < mixture.caption:
        found, described = corpus.captions(size, random)
        texts, rows = [text.text for text in found], [*described[:, None].expand(-1, EACH, -1)]
    while len(texts) < size:
        for text in corpus.texts(size, random, mixture):
            true = facts.holds(text.request, facts.table).nonzero().flatten()
            if len(texts) < size and len(true):
                texts.append(text.text)
                rows.append(facts.members[true[torch.randint(len(true), (EACH,), generator=generator)]])
    with torch.no_grad(), accelerator.autocast():
        ids, _ = reader.tokens(texts, facts.space.name)
        memory, _ = reader.encode_tokens(**ids)
    mask = ids["attention_mask"] > 0
    mask &= (torch.rand(size, 1, generator=generator) >= SILENCE).to(mask.device)
    return torch.cat(rows).to(memory.device), (
        memory.float().repeat_interleave(EACH, 0), mask.repeat_interleave(EACH, 0),
    )  # fmt: skip


def loss_of(model: Any, codes: Tensor, told: Text, random: Random) -> Tensor:
    """Cross-entropy of the holes that were opened, as the absorbing process weighs them."""
    generator = torch.Generator().manual_seed(random.getrandbits(60))
    x, _, weight = AbsorbingScheduler().noised(codes, generator, None)
    logits = model(x, text=told)
    loss = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view_as(weight)
    return (loss * weight).sum(-1).mean()
