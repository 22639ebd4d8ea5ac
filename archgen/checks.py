"""Checks of what users ask for that several commands share."""

from __future__ import annotations


def check_counts(**counts: int | None) -> None:
    """Refuse what is no whole number of at least 1; absent ones are left.

    Raises:
        ValueError: If one is not.
    """
    for name, value in counts.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is a whole number of at least 1, got {value!r}")
