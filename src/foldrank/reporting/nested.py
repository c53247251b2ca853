"""JSON of free form as lines of names and values, with the units that the names tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldrank.reporting import figures
from foldrank.reporting.parts import Table, table


def lines(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested JSON as (dotted name, text); a list of plain values stays on one line."""
    if isinstance(value, Mapping):
        found = sorted((str(key), item) for key, item in value.items())
        return [line for key, item in found for line in lines(item, f"{name}.{key}" if name else key)]
    if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        return [line for number, item in enumerate(value) for line in lines(item, f"{name}.{number}")]
    return [(name, shown(name, value))]


def shown(name: str, value: Any) -> str:
    """One plain value; `_bytes` and `_bytes_per_s` at the end of a name are units."""
    if isinstance(value, list):
        return ", ".join(shown(name, item) for item in value) or "none"
    if value is None:
        return "not told"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if name.endswith("_bytes_per_s"):
        return f"{figures.size(value)}/s"
    if name.endswith("_bytes"):
        return figures.size(value)
    return figures.whole(value) if isinstance(value, int) else figures.significant(value)


def named(found: list[tuple[str, str]]) -> Table:
    """Names and values as a table without a head; units in names are in the values already."""
    rows: list[list[str]] = [[_words(name), value] for name, value in found]
    return table((), "ll", [list(row) for row in rows])


def _words(name: str) -> str:
    for unit in ("_bytes_per_s", "_bytes"):
        name = name.removesuffix(unit)
    return name.replace("_", " ")
