"""What goes to stdout: one JSON object with --json, else text for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from foldrank.words import printable

console = Console(highlight=False)


def emit_json(data: Any) -> None:
    """One JSON object on one stream; NaN never."""
    print(json.dumps(data, ensure_ascii=False, allow_nan=False, default=str))


def say(text: str = "") -> None:
    """One line of text, never wrapped nor read as markup."""
    console.print("\n".join(map(printable, text.split("\n"))), markup=False, soft_wrap=True)


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """A table; numbers to the right."""
    lines = [list(row) for row in rows]
    grid = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for index, name in enumerate(columns):
        numeric = bool(lines) and all(isinstance(line[index], (int, float, type(None))) for line in lines)
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for line in lines:
        grid.add_row(*(Text(printable(cell(value))) for value in line))
    console.print(grid)


def cell(value: Any) -> str:
    """A value as a table shows it: four significant digits, thousands apart, a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return str(value)


def opening(bos: int | None) -> str:
    """What windows of text open with, to be put behind how many there are; empty where nothing does."""
    return "" if bos is None else f", each window opening with the token {bos} (BOS)"


def mebibytes(size: float) -> str:
    """Bytes as MiB with one decimal, or KiB where that is clearer."""
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"
