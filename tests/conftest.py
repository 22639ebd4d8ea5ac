"""What all tests share: one thread each, and the way to the tables of benchmarks measured by others."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

BESIDE = Path(__file__).parents[2] / "shared" / "data"

torch.set_num_threads(1)  # the tests share the cores among processes
os.environ["OMP_NUM_THREADS"] = "1"  # and so do the commands they start


@pytest.fixture(scope="session")
def outside() -> Callable[[str], Path]:
    """Path of a file of the benchmarks measured by others; where it is absent, the test is skipped by its name."""
    folders = [
        Path(folder) for folder in os.environ.get("ARCHGEN_BENCHMARKS", str(BESIDE)).split(os.pathsep) if folder
    ]

    def find(name: str) -> Path:
        for folder in folders:
            if (folder / name).exists():
                return folder / name
        pytest.skip(f"needs {name}: set ARCHGEN_BENCHMARKS")

    return find
