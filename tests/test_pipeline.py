"""Sampling: legal, constrained, conditioned, edited, reproducible; saved and loaded."""

import json
import subprocess
import sys

import pytest
import torch

from archgen.benchmark import Table
from archgen.constraint import Constraint, Infeasible
from archgen.denoiser import GraphDenoiser, reachable_range
from archgen.evaluate import divergence, exact_distribution
from archgen.guidance import CachedNetwork, Membership
from archgen.pipeline import ArchitecturePipeline
from archgen.scheduler import AbsorbingScheduler, VEScheduler
from archgen.space import OPEN, load_space, read_architectures

SPACES = ("nasbench201", "nasbench101", "mnasnet", "mobilenetv3")


def pipeline_of(name: str, scheduler=None) -> ArchitecturePipeline:
    """A pipeline with an untrained network: what it guarantees must not depend on training."""
    torch.manual_seed(0)
    space = load_space(name)
    denoiser = GraphDenoiser.for_space(space, ["params_m", "macs_m", "depth"], width=16, depth=1, heads=2)
    torch.nn.init.normal_(denoiser.head.weight, std=1.0)
    exact = space.cost.exact(space.sample(2000, torch.Generator().manual_seed(0)))
    denoiser.set_distribution(exact)
    pipeline = ArchitecturePipeline(denoiser.eval(), scheduler or AbsorbingScheduler(), space=name, rows={})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module", params=SPACES)
def pipeline(request):
    return pipeline_of(request.param)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("steps", [None, 1, 3])
def test_every_sample_is_legal_at_any_number_of_calls(pipeline, steps):
    codes = pipeline(n=300, steps=steps, distinct=False, generator=seeded()).codes
    assert len(codes) == 300
    assert pipeline.space.feasible(codes).all()
    assert (codes != OPEN).all()


def test_the_other_process_gives_legal_samples_too():
    for name in ("nasbench101", "mobilenetv3"):
        pipeline = pipeline_of(name, VEScheduler())
        codes = pipeline(n=50, steps=4, distinct=False, generator=seeded()).codes
        assert pipeline.space.feasible(codes).all()


def test_constraints_are_met_by_every_result(pipeline):
    cost = pipeline.space.cost.exact(pipeline.space.sample(500, seeded()))
    low, high = cost["params_m"].quantile(torch.tensor([0.2, 0.5], dtype=torch.float64)).tolist()
    text = f"{low} <= params_m <= {high} and depth >= {cost['depth'].median().item()}"
    result = pipeline(n=40, where=text, generator=seeded())
    assert len(result.architectures) == 40
    assert Constraint(text, pipeline.space).holds(result.codes).all()
    with pytest.raises(Infeasible, match="nearest"):
        pipeline(n=1, where="params_m <= 0.001")


def test_a_single_member_is_found_and_no_more_are_invented():
    result = pipeline_of("nasbench201")(n=5, where="count(nor_conv_3x3) == 6", generator=seeded())
    assert [str(one) for one in result.architectures] == [
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    ]


def test_results_differ_and_a_seed_repeats_them(pipeline):
    first, again, other = (pipeline(n=20, generator=seeded(s)) for s in (1, 1, 2))
    assert len({one.hash for one in first.architectures}) == 20
    assert torch.equal(first.codes, again.codes)
    assert not torch.equal(first.codes, other.codes)


def test_editing_changes_at_most_the_holes_that_were_opened():
    for name in ("nasbench201", "mnasnet", "mobilenetv3"):
        pipeline = pipeline_of(name)
        start = pipeline.space.decode(pipeline.space.sample(1, seeded(3))[0])
        codes = pipeline(n=30, like=start, change=2, generator=seeded(), distinct=False).codes
        differ = (codes != pipeline.space.encode(start)).sum(-1)
        assert differ.max() <= 2
        assert differ.max() >= 1


def test_asked_costs_are_kept_within_reach():
    pipeline = pipeline_of("mnasnet")
    value = pipeline.denoiser.quantile("params_m", 0.5)
    asked, free = (
        (pipeline(n=200, condition=wish, generator=seeded()).costs["params_m"] - value).abs().median()
        for wish in ({"params_m": value}, {})
    )
    assert asked < 0.1 * value
    assert asked < free / 2


def test_the_exact_distribution_is_the_one_that_is_sampled():
    """Frequencies of 20,000 samples against the computed probabilities: chi-square of the 25 most likely cells."""
    pipeline = pipeline_of("nasbench201")
    model = exact_distribution(pipeline)
    assert model.sum().item() == pytest.approx(1, abs=1e-9)
    assert divergence(model, model) == 0
    codes = pipeline(n=20_000, distinct=False, batch_size=20_000, generator=seeded()).codes
    weights = 5 ** torch.arange(5, -1, -1)
    counts = torch.bincount((codes * weights).sum(-1), minlength=5**6).double()
    top = model.argsort(descending=True)[:25]
    expected = 20_000 * model[top]
    assert ((counts[top] - expected) ** 2 / expected).sum() < 60  # 1 - 1e-4 quantile at 25 degrees of freedom: 58


def test_equal_inputs_are_computed_once_and_give_the_same(pipeline):
    codes = pipeline.space.sample(64, seeded()).masked_fill(torch.rand(64, len(pipeline.space.holes)) < 0.7, OPEN)
    codes = torch.cat([codes, codes[:32]])
    free = torch.full((3, 2), torch.nan)
    network = CachedNetwork(pipeline.denoiser, pipeline.space, free, 1.0)
    with torch.inference_mode():
        assert torch.allclose(network(codes, None), pipeline.denoiser(codes, None, free[None]), atol=1e-5)


def test_guidance_is_linear_in_its_weight():
    pipeline = pipeline_of("nasbench201")
    torch.nn.init.normal_(pipeline.denoiser.blocks[0].modulate.weight, std=0.5)
    wishes = torch.full((3, 2), torch.nan)
    wishes[0] = 0.5
    codes = torch.full((1, 6), OPEN)
    with torch.inference_mode():
        zero, one, two = (CachedNetwork(pipeline.denoiser, pipeline.space, wishes, w)(codes, None) for w in (0, 1, 2))
    assert torch.allclose(two - zero, 2 * (one - zero), atol=1e-4)
    assert not torch.allclose(one, zero)


def test_reachable_range_shrinks_to_the_cost():
    space = load_space("mnasnet")
    codes = space.sample(8, seeded())
    within = reachable_range(space, codes, ["macs_m", "cifar10_test"])
    assert torch.allclose(within[:, 0, 0].double(), space.cost.exact(codes)["macs_m"], rtol=1e-6)
    assert torch.equal(within[:, 0, 0], within[:, 0, 1])
    assert within[:, 1].isnan().all()


def test_the_generator_knows_what_meets_a_wish():
    """Bayes' rule on the shipped checkpoint, against the counted truth: the upper tenth of the parameters."""
    pipeline = ArchitecturePipeline.load("nasbench201")
    space = pipeline.space
    codes = space.sample(300, seeded())
    level = pipeline.denoiser.quantile("params_m", 0.9)
    inside = space.cost.exact(codes)["params_m"] >= level
    asked = torch.full((len(pipeline.conditions), 2), torch.nan)
    asked[pipeline.conditions.index("params_m")] = torch.tensor([level, torch.inf])
    share = (space.cost.exact(space.legal_codes)["params_m"] >= level).double().mean().item()
    with torch.inference_mode():
        believed = Membership(pipeline.denoiser, space, codes)(asked, share)
    assert ((believed > 0.5) == inside).double().mean() > 0.97


def test_extremes_under_a_constraint_are_near_the_best(outside):
    """Mean true accuracy of 16 cells is within two points of the 16 best that meet the constraint."""
    pipeline = ArchitecturePipeline.load("nasbench201")
    table = Table.read(outside("nas_bench_201.parquet"), pipeline.space)
    accuracy = table.column("cifar100_test_acc_200ep_pct")
    for where in ("params_m <= 0.4 and depth >= 2", "macs_m <= 30 and count(skip_connect) >= 1"):
        result = pipeline(n=16, where=where, maximize="cifar100_test", generator=seeded())
        best = accuracy[Constraint(where, pipeline.space).holds(table.codes)].sort(descending=True).values[:16]
        assert accuracy[[table.row(one) for one in result.architectures]].mean() > best.mean() - 2


@pytest.mark.parametrize(
    "request_",
    [
        {"n": 0}, {"n": -3}, {"steps": -1}, {"steps": 0}, {"batch_size": 0}, {"change": 2}, {"maximize": "nothing"},
        {"condition": {"params_m": "much"}}, {"condition": {"params_m": [2, 1]}}, {"condition": {"params_m": [1]}},
        {"maximize": "params_m", "condition": {"params_m": 1.0}}, {"like": "|none~0|"}, {"where": "params_m <"},
        {"where": "cifar100_test > 3"}, {"like": "x", "change": 0},
    ],
)  # fmt: skip
def test_bad_requests_are_refused_in_one_sentence(request_):
    with pytest.raises(ValueError) as caught:
        pipeline_of("nasbench201")(**request_)
    assert "\n" not in str(caught.value)


def test_a_saved_pipeline_samples_the_same_in_a_fresh_process(tmp_path):
    pipeline = pipeline_of("mobilenetv3")
    pipeline.save_pretrained(tmp_path / "saved")
    expected = [str(one) for one in pipeline(n=3, generator=seeded()).architectures]
    code = (
        "import sys, json, torch; from archgen import ArchitecturePipeline as P\n"
        "p = P.from_pretrained(sys.argv[1]); r = p(n=3, generator=torch.Generator().manual_seed(0))\n"
        "print(json.dumps([str(a) for a in r.architectures]))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "saved"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected
    assert not list((tmp_path / "saved").rglob("*.bin"))


def test_damaged_checkpoints_are_refused_in_one_sentence(tmp_path):
    pipeline_of("nasbench201").save_pretrained(tmp_path / "saved")
    weights = tmp_path / "saved" / "denoiser" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"\x80\x04garbage", whole[:8] + b"x" + whole[9:]):
        weights.write_bytes(damage)
        with pytest.raises(ValueError, match="cannot be loaded") as caught:
            ArchitecturePipeline.load(tmp_path / "saved")
        assert "\n" not in str(caught.value)
    weights.write_bytes(whole)
    for name in ("model_index.json", "denoiser/config.json"):
        kept = (tmp_path / "saved" / name).read_text()
        for damage in ("", "{", kept[: len(kept) // 2], "[]"):
            (tmp_path / "saved" / name).write_text(damage)
            with pytest.raises(ValueError):
                ArchitecturePipeline.load(tmp_path / "saved")
        (tmp_path / "saved" / name).write_text(kept)
    ArchitecturePipeline.load(tmp_path / "saved")


def test_results_are_written_and_read_back(pipeline, tmp_path):
    result = pipeline(n=4, generator=seeded())
    path = tmp_path / "four.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in result.records()))
    assert read_architectures(str(path)) == result.architectures
    record = result.records()[0]
    assert list(record) == ["space", "arch", "hash", "graph", "params_m", "macs_m", "depth", "predicted"]
