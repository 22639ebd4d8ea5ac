"""Holds the task predictor to account on data sets it has never seen, with and without their images.

python training/check_tasks.py --out out/check_tasks.json     # some minutes on one core

Each held-out task has 20 measured cells (leaving out a source of the training part: 11). `images` is the predictor,
`blind` the same model learned from the same evaluations with no task described, `blind201` the same from tasks201
alone, a stronger opponent since MetaD2A's tasks rank cells otherwise. Cells are judged by the mean of their three
trainings; an evaluation is the first of them. Spearman is over the task's cells. `choice` is the regret of the cell
that looks best among 10 drawn from them, the mean over 200 draws, in percent; `chosen10` that of the best measured of
the ten that look best. With 10 evaluations, the rest of the cells are judged, the mean over 20 draws of the ten;
`error` is the mean absolute error in percent; `images_0` are the same cells judged without evaluations. `own_source`
is no opponent but a ceiling: it learns from the other tasks of the held-out source, too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from statistics import mean

import numpy as np
import torch
from scipy.stats import binomtest, spearmanr
from torch import Tensor
from tqdm.auto import tqdm

from archgen.hub import replacing
from archgen.space import load_space
from archgen.task import Accuracy, TaskPredictor
from archgen.taskset import Evaluations, read_measured, read_metad2a, read_tasks

SPACE = load_space("nasbench201")
CHOICES, DRAWS, KNOWN, FOLDS = 200, 20, 10, 5
Model = Callable[..., Accuracy]


def learn(data: Evaluations, images: bool = True) -> Model:
    """A function `(codes, evidence, observed)` that predicts."""
    predictor = TaskPredictor(SPACE.name)
    if not images:  # tasks share all that they otherwise share if their images are alike
        shared = predictor.config.common + predictor.config.images
        data, predictor = data.without_images(), TaskPredictor(SPACE.name, common=shared)
    predictor.fit(data.evidence, data.task, data.codes, data.accuracy)
    if images:
        return predictor.predict
    return lambda codes, evidence, observed=None: predictor.predict(codes, None, observed)


def cells_of(data: Evaluations, task: int) -> tuple[Tensor, Tensor, Tensor]:
    """The measured cells of a task, their accuracies averaged over seeds, and those of their first training."""
    mine = data.task == task
    codes, place = data.codes[mine].unique(dim=0, return_inverse=True)
    accuracy, order = data.accuracy[mine], torch.arange(len(place))
    first = torch.full((len(codes),), len(place)).scatter_reduce(0, place, order, "amin")
    return codes, place.bincount(accuracy) / place.bincount(), accuracy[first]


def rank_correlation(predicted: Tensor, measured: Tensor) -> float:
    """Spearman's; 0 where one of them is constant."""
    return float(np.nan_to_num(spearmanr(predicted, measured)[0]))


def choice_regret(predicted: Tensor, measured: Tensor, of: int = 10) -> float:
    """Expected loss by the cell that looks best among some drawn at random."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(CHOICES, len(measured), generator=generator).argsort(1)[:, :of]
    chosen = measured[drawn].gather(1, predicted[drawn].argmax(1, keepdim=True))
    return float((measured[drawn].amax(1) - chosen[:, 0]).mean())


def judge(models: Mapping[str, Model], data: Evaluations, tasks: Sequence[int]) -> list[dict[str, float]]:
    """Scores of all models on some tasks, without evaluations and with ten."""
    found = []
    for task in tqdm(tasks, leave=False):
        codes, measured, once = cells_of(data, task)
        scores: dict[str, float] = {}
        for name, model in models.items():
            predicted = model(codes, data.evidence[task]).mean
            scores[f"spearman {name}"] = rank_correlation(predicted, measured)
            scores[f"choice {name}"] = choice_regret(predicted, measured)
            scores[f"chosen10 {name}"] = float(
                measured.max() - measured[predicted.topk(min(10, len(codes))).indices].max()
            )
        found.append(
            scores | (judge_informed(models, data.evidence[task], codes, measured, once) if len(codes) > 15 else {})
        )
    return found


def judge_informed(
    models: Mapping[str, Model], evidence: Tensor, codes: Tensor, measured: Tensor, once: Tensor
) -> dict[str, float]:
    """Scores on the cells that are left when ten have been evaluated, each by one training."""
    generator, found = torch.Generator().manual_seed(0), {}
    for _ in range(DRAWS):
        order = torch.randperm(len(codes), generator=generator)
        known, rest = order[:KNOWN], order[KNOWN:]
        observed = (codes[known], once[known])
        predicted = {f"{name}_10": model(codes[rest], evidence, observed).mean for name, model in models.items()}
        predicted["images_0"] = models["images"](codes[rest], evidence).mean
        for name, values in predicted.items():
            found.setdefault(f"rest spearman {name}", []).append(rank_correlation(values, measured[rest]))
            found.setdefault(f"rest choice {name}", []).append(choice_regret(values, measured[rest], len(rest)))
            found.setdefault(f"rest error {name}", []).append(float((values - measured[rest]).abs().mean()))
    return {name: mean(values) for name, values in found.items()}


def compare(scores: Sequence[Mapping[str, float]], pairs: Sequence[tuple[str, str]]) -> dict[str, dict]:
    """Means, and on how many tasks the first of each pair is better, as good, worse."""
    result: dict[str, dict] = {"mean": {name: round(mean(s[name] for s in scores), 3) for name in scores[0]}}
    for ours, theirs in pairs:
        sign = 1 if "spearman" in ours else -1
        gain = np.round([sign * (s[ours] - s[theirs]) for s in scores], 9)
        better, worse = int((gain > 0).sum()), int((gain < 0).sum())
        result[f"{ours} against {theirs}"] = {
            "better": better, "equal": len(gain) - better - worse, "worse": worse,
            "mean_gain": round(float(gain.mean()), 3),
            "p": round(binomtest(better, better + worse).pvalue, 4) if better + worse else 1.0,
        }  # fmt: skip
    return result


def pairs_for(opponents: Sequence[str], informed: bool) -> list[tuple[str, str]]:
    """What is compared: the predictor against each opponent, and with evaluations against itself without."""
    found = [(f"{m} images", f"{m} {name}") for name in opponents for m in ("spearman", "choice", "chosen10")]
    if informed:
        others = ["images_0", *(f"{name}_10" for name in opponents)]
        found += [
            (f"rest {m} images_10", f"rest {m} {name}") for name in others for m in ("spearman", "choice", "error")
        ]
    return found


def both_better(scores: Sequence[Mapping[str, float]], opponent: str) -> float:
    """Share of tasks on which both rank correlation and regret of the choice are better."""
    ranks = [s["spearman images"] > s[f"spearman {opponent}"] for s in scores]
    return round(
        mean(r and s["choice images"] < s[f"choice {opponent}"] for r, s in zip(ranks, scores, strict=True)), 3
    )


def models_of(measured: Evaluations, other: Evaluations) -> dict[str, Model]:
    """The predictor and its two opponents."""
    everything = measured.and_those(other)
    return {"images": learn(everything), "blind": learn(everything, False), "blind201": learn(measured, False)}


def main() -> None:
    """Judge on the held-out sources, and on each training source left out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="out/check_tasks.json")
    parser.add_argument(
        "--part", choices=["all", "train"], default="all", help="train: leave training sources out only"
    )
    options = parser.parse_args()
    tasks = read_tasks(None if options.part == "all" else "train")
    data, other = read_measured(tasks, SPACE), read_metad2a(SPACE)
    inside = [i for i, task in enumerate(tasks) if task.split == "train"]
    opponents, result = ("blind", "blind201"), {}
    for source in dict.fromkeys(tasks[i].source for i in inside):
        left_out = [i for i in inside if tasks[i].source == source]
        models = models_of(data.of_tasks([i for i in inside if i not in left_out]), other)
        result[f"left out: {source}"] = compare(judge(models, data, left_out), pairs_for(opponents, False))
    outside = [i for i, task in enumerate(tasks) if task.split == "test"]
    if outside:
        models, scores = models_of(data.of_tasks(inside), other), []
        for fold in range(FOLDS):
            ceiling = learn(data.of_tasks(inside + [i for i in outside if i % FOLDS != fold]).and_those(other))
            mine = [i for i in outside if i % FOLDS == fold]
            scores += [(i, s) for i, s in zip(mine, judge(models | {"own_source": ceiling}, data, mine), strict=True)]
        for source in ("all", *dict.fromkeys(tasks[i].source for i in outside)):
            chosen = [s for i, s in scores if source in ("all", tasks[i].source)]
            result[f"held out: {source}"] = {
                **compare(chosen, pairs_for((*opponents, "own_source"), True)),
                **{f"both better than {name}": both_better(chosen, name) for name in opponents},
            }
    print(json.dumps(result, indent=1))
    with replacing(options.out) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
