"""Shows results: a table on the terminal, JSON lines, pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from archgen.draw import draw, draw_sheet
from archgen.graph import Architecture
from archgen.hub import replacing


def write_lines(path: str, records: list[dict[str, Any]]) -> None:
    """One JSON object a line, all of them or no file."""
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def draw_all(architectures: list[Architecture], folder: Path) -> None:
    """A picture of each, and a sheet of all."""
    for index, architecture in enumerate(tqdm(architectures, desc="drawing", leave=False)):
        draw(architecture, folder / f"{index:03}.png")
    if architectures:
        draw_sheet(architectures, folder / "sheet.png")


def print_table(records: list[dict[str, Any]]) -> None:
    """One line an architecture; long native strings are cut."""
    if not records:
        return
    costs = [name for name, value in records[0].items() if isinstance(value, float | int)]
    print("  #  " + "".join(f"{name:>10}" for name in costs) + "  architecture")
    for index, record in enumerate(records):
        arch = record["arch"] if len(record["arch"]) <= 110 else record["arch"][:107] + "..."
        print(f"{index:3}  " + "".join(f"{record[name]:10.4g}" for name in costs) + f"  {arch}")
