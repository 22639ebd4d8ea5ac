"""Pickles of plain facts, read without running code: containers, numbers, words and numpy arrays of those."""

from __future__ import annotations

import bz2
import io
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from archgen.hub import BadFile, reading

LIMIT = 512 << 20  # bytes of one decompressed pickle; official records have 0.3 MB


class _Dtype:
    """Stands for a numpy type of plain numbers, or of Python objects kept in a list."""

    __slots__ = ("code",)

    def __init__(self, code: str, *_: Any):
        if not re.fullmatch(r"[<>|=]?([biuf][1248]|O8?)", code):
            raise pickle.UnpicklingError(f"an array of {code[:20]!r}")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.code = state[1] + self.code.lstrip("<>|=")

    def values(self, data: bytes | bytearray) -> list:
        """The numbers in `data`."""
        return np.frombuffer(data, self.code).tolist()  # refuses objects


class _Array(list):
    """Stands for a numpy array: its values, flat."""

    __slots__ = ()

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, _, data = state
        self[:] = data if isinstance(data, list) else dtype.values(data)
        if len(self) != math.prod(shape):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {len(self)} values")


class _Inert:
    """A callable that a pickle may call, and neither change nor instantiate."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable):
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a pickle may not change what it calls")


# Stand-ins for all that official files ask for; no class or function of Python or numpy is handed out.
_ADMITTED = {
    "collections.OrderedDict": _Inert(dict),
    "builtins.set": _Inert(set),
    "_codecs.encode": _Inert(lambda text, _: text.encode("latin1")),  # how protocol 2 spells bytes
    "numpy.dtype": _Inert(_Dtype),
    "numpy.ndarray": _Inert(lambda *_: _Array()),
}
for _core in ("numpy.core", "numpy._core"):
    _ADMITTED[f"{_core}.multiarray._reconstruct"] = _Inert(lambda *_: _Array())
    _ADMITTED[f"{_core}.multiarray.scalar"] = _Inert(lambda dtype, data: dtype.values(data)[0])
    _ADMITTED[f"{_core}.numeric._frombuffer"] = _Inert(lambda data, dtype, *_: _Array(dtype.values(data)))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, path: Path):
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> _Inert:
        if f"{module}.{name}" not in _ADMITTED:
            asked = ascii(f"{module}.{name}"[:100])[1:-1]
            raise BadFile(f"refused: {self._path} asks for {asked}, but facts are numbers, words and containers")
        return _ADMITTED[f"{module}.{name}"]


def read_pickle(path: str | Path) -> Any:
    """Read a pickle, bz2-compressed if it ends in `.pbz2`, of containers, numbers, words and numpy arrays of those.

    Arrays come back as flat lists. Whatever else the file asks for is refused before it is called.

    Raises:
        ValueError: If the file is no pickle, asks for anything else, or holds more than 512 MiB.
    """
    path = Path(path)
    with reading(path):
        with (bz2.open if path.suffix == ".pbz2" else open)(path, "rb") as file:
            data = file.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise BadFile(f"refused: {path} holds more than {LIMIT >> 20} MiB")
        return _Unpickler(io.BytesIO(data), path).load()
