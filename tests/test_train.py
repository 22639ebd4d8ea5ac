"""Training: what is drawn is unbiased, runs resume to the bit, two processes agree, recipes are refused or used."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from archgen.pipeline import ArchitecturePipeline
from archgen.pool import COPIES, SMALLEST_TAIL, Events, Pool, completed, make_pool
from archgen.predictor import PropertyPredictor
from archgen.space import load_space
from archgen.train import Network, train
from archgen.train_text import train_text

ROOT = Path(__file__).parents[1]
TINY = {"space": "nasbench201", "network": Network(width=16, depth=1, heads=2), "batch_size": 32, "samples": 0}


@pytest.fixture(scope="module")
def pool() -> Pool:
    return make_pool(load_space("nasbench201"), ["params_m", "depth"], {}, 1000)


def test_labels_that_are_predicted_are_as_doubtful_as_the_predictor():
    """Measured ones are the same in all copies; the others scatter about what is expected, and less near them."""
    space = load_space("nasbench201")
    codes = space.sample(400, torch.Generator().manual_seed(0)).unique(dim=0)
    known = torch.full((len(codes), 1), torch.nan)
    known[:40, 0] = space.cost.exact(codes[:40])["params_m"].float()
    labels = completed(space, codes, known, seed=0)
    assert labels.shape == (COPIES, len(codes), 1) and labels.isfinite().all()
    assert (labels[:, :40] == known[:40]).all()
    expected = PropertyPredictor(space, seed=0).fit(codes[:40], known[:40]).predict(codes)
    scatter = labels[:, 40:, 0].std(0, correction=0)
    assert (scatter > 0).all() and scatter.mean() < expected.std[40:, 0].mean()
    assert torch.corrcoef(torch.stack([scatter, expected.std[40:, 0]]))[0, 1] > 0
    assert torch.corrcoef(torch.stack([labels[:, 40:, 0].mean(0), expected.mean[40:, 0]]))[0, 1] > 0.9


def test_the_sharpest_tail_has_as_many_members_however_many_copies_there_are():
    number = torch.arange(1000.0)
    for copies in (1, 4):
        pool = Pool(number[:, None].long().repeat(copies, 1), {"new": number.repeat(copies)}, copies=copies)
        _, intervals = pool.draw(4000, Events(free=0.0, point=0.0), torch.Generator().manual_seed(0))
        low, high = intervals[:, 0].T
        assert (high.clamp_max(999) - low.clamp_min(0)).min() >= SMALLEST_TAIL - 2


def test_every_row_meets_what_is_asked_of_it(pool):
    codes, intervals = pool.draw(4000, Events(), torch.Generator().manual_seed(0))
    values = torch.stack([pool.values[name] for name in pool.values], -1)
    keys = {tuple(code): row for row, code in enumerate(pool.codes.tolist())}
    own = values[[keys[tuple(code)] for code in codes.tolist()]]
    asked = ~intervals.isnan().any(-1)
    inside = (intervals[..., 0] <= own) & (own <= intervals[..., 1])
    assert inside[asked].all()
    assert 0.15 < (~asked.any(-1)).double().mean() < 0.25
    assert asked.all(-1).double().mean() > 0.05


def test_rows_are_uniform_given_what_is_asked(pool):
    """Among draws asked for exactly depth 3, the first operation is distributed as in the pool: 4 standard errors."""
    codes, intervals = pool.draw(60_000, Events(), torch.Generator().manual_seed(1))
    depth = list(pool.values).index("depth")
    asked = (intervals[:, depth] == 3).all(-1) & intervals[:, 1 - depth].isnan().all(-1)
    share = torch.bincount(codes[asked, 0], minlength=5).double() / asked.sum()
    truth = pool.codes[pool.values["depth"] == 3][:, 0].long()
    expected = torch.bincount(truth, minlength=5).double() / len(truth)
    error = (expected * (1 - expected) / asked.sum()).sqrt()
    assert asked.sum() > 500
    assert ((share - expected).abs() <= 4 * error).all()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "denoiser" / "diffusion_pytorch_model.safetensors")


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    train(**TINY, out=str(tmp_path / "whole"), max_steps=100, save_every=10)
    code = (
        "import sys; from archgen.train import Network, train\n"
        "train(space='nasbench201', network=Network(width=16, depth=1, heads=2), batch_size=32, samples=0,\n"
        "      out=sys.argv[1], max_steps=100, save_every=10)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "killed")]
    state = tmp_path / "killed" / "state" / "state.pt"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model_index.json").exists()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not state.exists()


def test_a_state_of_another_recipe_or_a_damaged_one_is_refused(tmp_path):
    folder = tmp_path / "out"
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "state.pt").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged"):
        train(**TINY, out=str(folder), max_steps=2)
    torch.save({"recipe": "{}", "step": 1, "seconds": 0.0}, folder / "state" / "state.pt")
    with pytest.raises(ValueError, match="another recipe"):
        train(**TINY, out=str(folder), max_steps=2)
    assert sorted(path.name for path in folder.iterdir()) == ["state"]


def test_two_processes_end_with_one_model(tmp_path):
    """Two gloo processes under torchrun; each draws its own batch, both keep the same weights.

    Neither holds a wrapped network when they part: one that did would at times never end.
    """
    script = tmp_path / "run.py"
    script.write_text(
        "import faulthandler, gc, sys, torch, torch.distributed as dist\n"
        "from torch.nn.parallel import DistributedDataParallel\n"
        "from archgen import train as module\n"
        "faulthandler.dump_traceback_later(240, exit=True)\n"
        "fit, part = module.Run.fit, dist.destroy_process_group\n"
        "def wrapped():\n"
        "    return sum(type(one) is DistributedDataParallel for one in gc.get_objects())\n"
        "def checked(self, *args):\n"
        "    fit(self, *args)\n"
        "    mine = torch.cat([p.detach().flatten() for p in self.denoiser.parameters()])\n"
        "    other = mine.clone(); dist.broadcast(other, 0)\n"
        "    assert torch.equal(mine, other) and dist.get_world_size() == 2 and wrapped() == 1\n"
        "def parted(*args):\n"
        "    assert wrapped() == 0\n"
        "    part(*args)\n"
        "module.Run.fit, dist.destroy_process_group = checked, parted\n"
        "module.train(space='nasbench201', network=module.Network(16, 1, 2), batch_size=16, samples=0,\n"
        "             out=sys.argv[1], max_steps=5)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*command, script, tmp_path / "out"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    pipeline = ArchitecturePipeline.load(tmp_path / "out")
    assert len(pipeline(n=4).architectures) == 4


def test_trackers_write_what_happens(tmp_path):
    pytest.importorskip("tensorboard")
    train(**TINY, out=str(tmp_path), max_steps=3, trackers=["tensorboard"])
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_both_processes_train_and_load(tmp_path):
    for process in ("absorbing", "ve"):
        train(**TINY, out=str(tmp_path / process), max_steps=3, process=process)
        pipeline = ArchitecturePipeline.load(tmp_path / process)
        assert len(pipeline(n=2, steps=4).architectures) == 2


def test_a_declared_space_travels_with_its_checkpoint(tmp_path):
    entry = {
        "name": "mine",
        "nodes": {
            "a": {"op": ["x", "y"]},
            "b": {"op": ["x", "z"], "width": [8, 16, 32], "k": {"options": [3, 5], "when": {"op": ["z"]}}},
        },
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(entry, sort_keys=False))
    train(**{**TINY, "space": str(tmp_path / "mine.yaml"), "samples": 100}, out=str(tmp_path / "out"), max_steps=2)
    assert "relative deviation from asked depth" in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "mine.yaml").unlink()
    pipeline = ArchitecturePipeline.load(tmp_path / "out")
    assert pipeline.space.name == "mine"
    assert pipeline(n=3, where="count(width == 8) == 1").architectures[0].nodes[2].attributes[0] == ("width", 8)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"space": "nowhere"}, "no space"),
        ({"max_steps": 0}, "max_steps"),
        ({"batch_size": -1}, "batch_size"),
        ({"process": "magic"}, "process"),
        ({"costs": ["price"]}, "price"),
        ({"label_limit": 0}, "label_limit"),
        ({"label_limit": -5}, "label_limit"),
        ({"labels": {"a": ["nowhere.parquet", "b"]}}, "nowhere"),
    ],
)
def test_recipes_at_fault_are_refused_before_anything_is_written(tmp_path, change, word):
    with pytest.raises(ValueError, match=word) as caught:
        train(**{**TINY, "max_steps": 2, **change}, out=str(tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "training").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_fit_the_function_they_configure(path):
    from jsonargparse import ArgumentParser

    content = yaml.safe_load(path.read_text())
    function = train if "space" in content else train_text
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(function)
    recipe = parser.parse_object(content)
    assert recipe.out == (content.get("start") or f"checkpoints/{path.stem}")  # one that goes on takes its place
    assert f"archgen {function.__name__} --config training/{path.name}" in path.read_text()
    for name in recipe.spaces if function is train_text else [recipe.space]:
        load_space(name)
