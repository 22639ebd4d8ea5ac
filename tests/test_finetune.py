"""Fine-tuning: what was known is kept to the bit, what fits is taken over, runs resume, bad requests are refused."""

import shlex
from pathlib import Path

import pytest
import torch
import yaml

from archgen import finetune as module
from archgen.adapt import adapted
from archgen.benchmark import Table
from archgen.finetune import finetune, remember
from archgen.pipeline import ArchitecturePipeline
from archgen.pool import Events, Pool
from archgen.space import OPEN, SearchSpace, declare
from archgen.train import Network, train

SMALL = {
    "name": "small",
    "nodes": {
        "a": {"op": ["conv", "pool", "skip"], "width": [8, 16, 32]},
        "b": {"op": ["conv", "pool"], "width": [8, 16, 32]},
        "c": {"op": ["conv", "skip"]},
    },
}
WIDE = {
    "name": "wide",
    "nodes": {
        "b": {"op": ["pool", "conv"], "width": [16, 64]},
        "c": {"op": ["conv", "skip"], "kernel": [3, 5, 7]},
        "d": {"op": ["conv", "pool", "skip"]},
    },
    "optional_edges": [["b", "d"]],
}
QUICK = {"max_steps": 4, "batch_size": 16, "samples": 0, "pool_size": 200}


def write_table(path: Path, space: SearchSpace, columns: dict[str, torch.Tensor]) -> str:
    rows = len(next(iter(columns.values())))
    Table(space, space.legal_codes[:rows], columns).write(path)
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a checkpoint that knows a cost and a measured property, and tables of two spaces."""
    folder = tmp_path_factory.mktemp("finetune")
    generator = torch.Generator().manual_seed(0)
    for entry in (SMALL, WIDE):
        (folder / f"{entry['name']}.yaml").write_text(yaml.safe_dump(entry, sort_keys=False))
        space = declare(entry)
        value = space.legal_codes.double() @ torch.randn(len(space.holes), generator=generator, dtype=torch.double)
        columns = {"old": value, "new": value.square(), "flat": torch.ones(len(value)).double()}
        columns["few"] = torch.where(torch.arange(len(value)) < 7, value, torch.nan)
        columns["none"] = torch.full_like(value, torch.nan)
        write_table(folder / f"{entry['name']}.csv", space, {name: column[:40] for name, column in columns.items()})
    train(
        space=str(folder / "small.yaml"),
        out=str(folder / "base"),
        labels={"old": [str(folder / "small.csv"), "old"]},
        network=Network(width=16, depth=2, heads=2),
        max_steps=20,
        batch_size=32,
        samples=0,
    )
    return folder


@pytest.fixture(scope="module")
def grown(place) -> Path:
    finetune(str(place / "base"), table=str(place / "small.csv"), targets="new", out=str(place / "grown"), **QUICK)
    return place / "grown"


def requests(pipeline: ArchitecturePipeline, rows: int, asked: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Partial encodings, and a wish for each about one of some conditions or about nothing."""
    generator = torch.Generator().manual_seed(1)
    codes = pipeline.space.sample(rows, generator)
    codes = codes.masked_fill(torch.rand(codes.shape, generator=generator) < 0.5, OPEN)
    wishes = torch.full((rows, len(pipeline.conditions), 2), torch.nan)
    for index, name in enumerate(asked):
        mine = torch.arange(rows) % (len(asked) + 1) == index
        wishes[mine, pipeline.conditions.index(name)] = pipeline.denoiser.quantile(name, 0.7)
    return codes, wishes


def test_requests_without_new_conditions_are_answered_as_before_to_the_bit(place, grown):
    before, after = ArchitecturePipeline.load(place / "base"), ArchitecturePipeline.load(grown)
    assert after.conditions == [*before.conditions, "new"]
    codes, wishes = requests(before, 64, before.conditions)
    more = torch.cat([wishes, torch.full((64, 1, 2), torch.nan)], 1)
    assert torch.equal(before.denoiser(codes, None, wishes), after.denoiser(codes, None, more))
    assert torch.equal(before.denoiser(codes), after.denoiser(codes))
    kept = after.denoiser.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in before.denoiser.state_dict().items())
    for name in before.conditions:
        assert after.denoiser.quantile(name, 0.3) == before.denoiser.quantile(name, 0.3)
        seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
        one, other = (
            pipe(n=8, minimize=name, generator=seed) for pipe, seed in zip((before, after), seeds, strict=True)
        )
        assert torch.equal(one.codes, other.codes)


def test_a_batch_may_mix_old_and_new_requests(grown):
    pipeline = ArchitecturePipeline.load(grown)
    codes, wishes = requests(pipeline, 24, pipeline.conditions)
    together = pipeline.denoiser(codes, None, wishes)
    for row in range(24):
        alone = pipeline.denoiser(codes[row : row + 1], None, wishes[row : row + 1])
        assert torch.allclose(alone[0], together[row], atol=1e-5)


def test_a_grown_checkpoint_is_like_any_other_and_grows_again(place, grown):
    pipeline = ArchitecturePipeline.load(grown)
    result = pipeline(n=6, maximize="new", condition={"old": "low"}, where="depth >= 1")
    assert len(result.architectures) == 6
    out = place / "again"
    rename(place / "small.csv", place / "renamed.csv", "new", "newer")
    finetune(str(grown), table=str(place / "renamed.csv"), targets="newer", out=str(out), **{**QUICK, "samples": 40})
    again = ArchitecturePipeline.load(out)
    assert again.conditions == [*pipeline.conditions, "newer"]
    assert again.predicted == ["old", "new", "newer"]
    members = again.space.legal_codes
    before, after = (each.predictor.predict(members) for each in (pipeline, again))
    assert torch.allclose(before.mean, after.mean[:, :2], rtol=1e-4)
    assert torch.allclose(before.std, after.std[:, :2], rtol=1e-3)
    sure = [each.predictor.bounds.upper(found, 0.8) for each, found in ((pipeline, before), (again, after))]
    assert torch.allclose(sure[0], sure[1][:, :2], rtol=1e-3)
    codes, wishes = requests(pipeline, 40, pipeline.conditions)
    more = torch.cat([wishes, torch.full((40, 1, 2), torch.nan)], 1)
    assert torch.equal(pipeline.denoiser(codes, None, wishes), again.denoiser(codes, None, more))
    card = (out / "README.md").read_text()
    asked = shlex.split(next(line for line in card.splitlines() if "archgen finetune" in line).split("`")[1])
    assert asked[:3] == ["archgen", "finetune", str(grown)] and asked[-2:] == ["--out", str(out)]
    assert asked[asked.index("--max_steps") + 1] == str(QUICK["max_steps"])
    assert all(f"40 labels: `{place / file}`" in card for file in ("small.csv", "renamed.csv"))
    assert "68 more are predicted" in card


def rename(source: Path, target: Path, old: str, new: str) -> None:
    header, _, rest = source.read_text().partition("\n")
    target.write_text(header.replace(f'"{old}"', f'"{new}"') + "\n" + rest)


def test_to_a_new_space_goes_what_the_two_have_in_common(place):
    old, new = declare(SMALL), declare(WIDE)
    source = ArchitecturePipeline.load(place / "base").denoiser
    target = adapted(source, old, new, ["price", "old"])
    assert torch.equal(target.blocks[1].qkv.weight, source.blocks[1].qkv.weight)

    def word(network, space, hole, option):
        (index,) = [i for i, each in enumerate(space.holes) if each.name == hole]
        return network.embed_word.weight[network.word_of[index, space.holes[index].options.index(option)]]

    for hole, option in (("b.op", "pool"), ("b.width", 16), ("c.op", "skip")):
        assert torch.equal(word(target, new, hole, option), word(source, old, hole, option))
    names = [[hole.name for hole in space.holes] for space in (old, new)]
    assert torch.equal(
        target.embed_hole.weight[names[1].index("b.op")], source.embed_hole.weight[names[0].index("b.op")]
    )
    row = source.config.conditions.index("old")
    assert torch.equal(target.embed_condition.project[1], source.embed_condition.project[row])


def test_a_new_space_gets_its_own_costs_and_the_new_property(place):
    out, space = place / "moved", str(place / "wide.yaml")
    finetune(str(place / "base"), table=str(place / "wide.csv"), targets="new", out=str(out), space=space, **QUICK)
    pipeline = ArchitecturePipeline.load(out)
    assert pipeline.space.name == "wide"
    assert pipeline.conditions == ["depth", "new"]
    assert len(pipeline(n=5, maximize="new", condition={"depth": 2}).architectures) == 5


def test_a_stopped_run_resumes_to_the_same_bits(place, grown, monkeypatch):
    request = {"table": str(place / "small.csv"), "targets": "new", **QUICK, "save_every": 2}
    draw, calls = Pool.draw, []

    def stopped(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return draw(self, *args)

    out = place / "stopped"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Pool, "draw", stopped)
        finetune(str(place / "base"), out=str(out), **request)
    assert sorted(path.name for path in out.iterdir()) == ["state"]
    steps = []
    monkeypatch.setattr(Pool, "draw", lambda self, *args: steps.append(1) or draw(self, *args))
    finetune(str(place / "base"), out=str(out), **request)
    assert len(steps) == 2
    whole, resumed = (ArchitecturePipeline.load(folder).denoiser.state_dict() for folder in (grown, out))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_stopped_while_its_card_is_measured_can_be_finished(place, monkeypatch):
    request = {"table": str(place / "small.csv"), "targets": "new", **QUICK, "samples": 8}
    out = place / "unmeasured"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("archgen.train.evaluate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        finetune(str(place / "base"), out=str(out), **request)
    assert not (out / "results.json").exists()
    finetune(str(place / "base"), out=str(out), **request)
    assert (out / "results.json").exists() and not (out / "state" / "state.pt").exists()
    with pytest.raises(ValueError, match="holds a checkpoint already"):
        finetune(str(place / "base"), out=str(out), **request)


def test_memories_are_drawn_under_wishes_about_what_was_measured(place):
    source = ArchitecturePipeline.load(place / "base")
    codes, asked = remember(source, 300, Events(), torch.Generator().manual_seed(0))
    assert source.space.feasible(codes).all()
    assert list(asked) == ["old"]
    low, high = asked["old"].T
    assert (low <= high).all()


def test_what_was_asked_of_a_row_stays_with_it():
    """Rows keep their wishes, and only leading conditions come first."""
    number = torch.arange(100.0)
    given = torch.stack([number, number + 1], -1)
    pool = Pool(number[:, None].long(), {"new": number, "cost": -number}, {"old": given}, leading=1)
    codes, intervals = pool.draw(500, Events(free=0.0), torch.Generator().manual_seed(0))
    assert torch.equal(intervals[:, 2], given[codes[:, 0]])
    assert not intervals[:, 0].isnan().any()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"targets": "mew"}, "did you mean new"),
        ({"targets": "new,old"}, "condition already"),
        ({"targets": " , "}, "at least one column"),
        ({"targets": "none"}, "empty"),
        ({"targets": "few"}, "7 values"),
        ({"targets": "flat"}, "1 in all rows"),
        ({"table": "nowhere.csv"}, "no table"),
        ({"table": ""}, "no table"),
        ({"table": "wide.csv"}, "wide.csv"),
        ({"space": "nowhere"}, "no space"),
        ({"checkpoint": "nowhere"}, "no checkpoint"),
        ({"max_steps": 0}, "max_steps"),
    ],
)
def test_requests_at_fault_are_refused_before_anything_is_written(place, tmp_path, change, word):
    request = {"checkpoint": str(place / "base"), "table": "small.csv", "targets": "new", **QUICK, **change}
    request["table"] = request["table"] and str(place / request["table"])
    with pytest.raises(ValueError, match=word) as caught:
        finetune(**request, out=str(tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_not_overwritten(place, grown):
    with pytest.raises(ValueError, match="holds a checkpoint"):
        finetune(str(place / "base"), table=str(place / "small.csv"), targets="new", out=str(grown), **QUICK)


def test_the_command_takes_options_by_name(place, tmp_path, monkeypatch):
    from archgen.cli import main

    asked = {}
    monkeypatch.setattr(module, "make_pool", lambda space, costs, labels, *rest, **more: asked.update(labels) or 1 / 0)
    table = str(place / "small.csv")
    with pytest.raises(ZeroDivisionError):
        main(["finetune", str(place / "base"), "--table", table, "--targets", "new", "--out", str(tmp_path / "out")])
    assert asked == {"new": [table, "new"]}
