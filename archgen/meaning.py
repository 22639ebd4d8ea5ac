"""What words mean in each space: vague words as predicates, what is counted, and what only other spaces have."""

from __future__ import annotations

from itertools import permutations
from typing import Any

SPACE_WORDS = {
    "tiny": [("params", "<=", "q10")], "small": [("params", "<=", "q30")],
    "medium": [("params", ">=", "q40"), ("params", "<=", "q60")],
    "large": [("params", ">=", "q80")], "huge": [("params", ">=", "q95")],
    "fast": [("flops", "<=", "q30")], "micro": [("flops", "<=", "q10")], "expensive": [("flops", ">=", "q80")],
    "not_large": [("params", "<", "q80")], "not_small": [("params", ">", "q30")],
    "not_tiny": [("params", ">", "q10")], "not_huge": [("params", "<", "q95")],
    "not_fast": [("flops", ">", "q30")], "server": [("flops", ">=", "q80")], "accurate": [("accuracy", ">=", "q95")],
}  # fmt: skip
WORDS: dict[str, dict[str, list[tuple[str, str, Any]]]] = {
    "nasbench201": SPACE_WORDS | {
        "shallow": [("depth", "<=", 1.0)], "not_shallow": [("depth", ">", 1.0)], "deep": [("depth", ">=", 3.0)],
        "residual": [("skip", ">=", 1.0)], "resnet": [("skip", ">=", 1.0), ("conv3x3", ">=", 1.0)],
        "plain": [("skip", "==", 0.0)], "vgg": [("skip", "==", 0.0), ("conv3x3", ">=", 1.0)],
        "inception": [("conv3x3", ">=", 1.0), ("conv1x1", ">=", 1.0), ("pool", ">=", 1.0)],
        "convless": [("conv", "==", 0.0)], "dense": [("none", "==", 0.0)],
        "both_convs": [("conv3x3", ">=", 1.0), ("conv1x1", ">=", 1.0)],
        "all_ops": [("conv3x3", ">=", 1.0), ("conv1x1", ">=", 1.0), ("pool", ">=", 1.0), ("skip", ">=", 1.0)],
        "all_five": [("conv3x3", ">=", 1.0), ("conv1x1", ">=", 1.0), ("pool", ">=", 1.0), ("skip", ">=", 1.0),
                     ("none", ">=", 1.0)],
        "sparse": [("none", ">=", 1.0)],
    },
    "nasbench101": SPACE_WORDS | {
        "shallow": [("depth", "<=", "q20")], "not_shallow": [("depth", ">", "q20")], "deep": [("depth", ">=", "q80")],
        "inception": [("conv3x3", ">=", 1.0), ("conv1x1", ">=", 1.0), ("pool", ">=", 1.0)],
        "convless": [("conv", "==", 0.0)], "both_convs": [("conv3x3", ">=", 1.0), ("conv1x1", ">=", 1.0)],
        "all_ops": [("conv3x3", ">=", 1.0), ("conv1x1", ">=", 1.0), ("pool", ">=", 1.0)],
    },
    "mnasnet": SPACE_WORDS | {
        "shallow": [("depth", "<=", "q20")], "not_shallow": [("depth", ">", "q20")], "deep": [("depth", ">=", "q80")],
        "bigger_kernels": [("kernel3", "==", 0.0)],
        "both_convs": [("kernel3", ">=", 1.0), ("kernel5", ">=", 1.0)],
    },
}  # fmt: skip
COUNTED: dict[str, dict[str, int]] = {  # attributes that are counted, and the largest number worth saying
    "nasbench201": {"conv3x3": 6, "conv1x1": 6, "pool": 6, "skip": 6, "none": 6, "conv": 6},
    "nasbench101": {"conv3x3": 5, "conv1x1": 5, "pool": 5, "conv": 5, "ops": 5, "edges": 9},
    "mnasnet": {
        "se": 7,
        "kernel3": 7,
        "kernel5": 7,
        "expand1": 7,
        "expand4": 7,
        "expand6": 7,
        "layers1": 7,
        "layers2": 7,
        "layers3": 7,
        "layers4": 1,
        "layers": 22,
    },
}
ELSEWHERE = {  # attributes of other spaces that this one lacks, and nouns among theirs that leave no doubt
    "nasbench201": ("se", "kernel5", "expand4", "expand6", "maxpool"),
    "nasbench101": ("se", "kernel5", "expand4", "expand6"),
    "mnasnet": ("pool", "maxpool", "none"),
}
DISTINCT = {"kernel5": "5|five", "maxpool": "(?i)max", "pool": "(?i)pool"}
STYLES = {  # well known designs, as they are named, by the words that say what is meant
    "resnet": ("a ResNet", "ResNet", "a resnet block", "a ResNet block"),
    "vgg": ("VGG", "a VGG net", "VGG-16", "a VGG block"),
    "inception": ("Inception", "an Inception block", "GoogLeNet", "an inception module"),
    "dense": ("DenseNet", "a densely connected cell", "a fully wired cell"),
}
PARTITIONS = {  # kinds that can fill all places between them
    "nasbench201": [
        *permutations(("conv3x3", "conv1x1", "pool", "skip"), 2),
        *(("none", name) for name in ("conv3x3", "conv1x1", "pool", "skip")),
    ],
    "mnasnet": [*permutations(("kernel3", "kernel5")), *permutations(("expand1", "expand4", "expand6"), 2)],
}
ALL_OF = {"nasbench201": 6.0, "nasbench101": 0.0, "mnasnet": 7.0}  # as many as there can be of one kind
