"""What all tests share: one thread each, and the way to the tables of benchmarks measured by others."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st

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


@pytest.fixture(scope="session")
def damaged() -> Callable[[st.DataObject, bytes], bytes]:
    """How Hypothesis damages the bytes of a file: up to three are changed, then they are cut, perhaps at the end."""

    def damage(data: st.DataObject, content: bytes) -> bytes:
        changed = bytearray(content)
        for position in data.draw(st.lists(st.integers(0, len(changed) - 1), max_size=3)):
            changed[position] = data.draw(st.integers(0, 255))
        return bytes(changed[: data.draw(st.integers(0, len(changed)) | st.just(len(changed)))])

    return damage
