"""The quality table's file: its cells, and cells that are there already."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foldrank.disk.staging import write_atomically
from foldrank.planfile.plan import Plan

KEEPS = (0.95, 0.9, 0.8, 0.65, 0.5)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Cell:
    """One entry of the table; `method` is what `--method` is given, but for keep."""

    model: str
    method: str
    keep: float
    seed: int
    recover: str | None = None

    @property
    def key(self) -> str:
        """Its name in the file."""
        trained = "" if self.recover is None else f" recover={self.recover}"
        return f"{self.model} {self.method} keep={self.keep} seed={self.seed}{trained}"

    @property
    def file_name(self) -> str:
        """What its plan's folder is called; recovery starts from the same plan."""
        return re.sub(r"[^\w.-]+", "_", replace(self, recover=None).key)

    @property
    def request(self) -> str:
        """As `--method` reads it."""
        return f"{self.method}{',' if ':' in self.method else ':'}keep={self.keep}"


def cells(
    models: Sequence[str], methods: Sequence[str], keeps: Sequence[float], seeds: Sequence[int],
    recover: str | None = None,
) -> Iterator[Cell]:
    """Every cell, seeds outermost: a table cut short still has every method."""
    for seed in seeds:
        for model in models:
            for keep in keeps:
                for method in methods:
                    yield Cell(model, method, keep, seed, recover)


def load(path: Path) -> dict[str, Any]:
    """The file as it is, or an empty one."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cells": {}}


def save(path: Path, found: dict[str, Any]) -> None:
    """Write whole or not at all."""
    write_atomically(path.absolute(), (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())


def keep_plan(plan: Plan, cell: Cell, plans: Path) -> None:
    """Write the plan of a cell into its folder among `plans`."""
    folder = plans / cell.file_name
    folder.mkdir(parents=True, exist_ok=True)
    plan.write(folder)
