"""A grid over a recipe: every combination of the values that were given, in the order in which they were given."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from foldrank.recipe import Recipe, altered

MOST = 1000
"""Candidates of one sweep."""
_BEFORE_A_METHOD = re.compile(r",(?=\w+(?:[:,]|$))")
"""A comma that stands between two methods, not between two settings of one."""


@dataclass(frozen=True)
class Candidate:
    """A recipe, and how it differs from the sweep's: `changes` by key as typed."""

    recipe: Recipe
    changes: dict[str, str]

    @property
    def name(self) -> str:
        """Of its folder: the changes, readable, and their digest."""
        text = ",".join(f"{key}={value}" for key, value in self.changes.items()) or "as-is"
        plain = re.sub(r"[^A-Za-z0-9=.+-]+", "_", text)[:80].strip("_.")
        return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def candidates(recipe: Recipe, grid: Sequence[str]) -> list[Candidate]:
    """Each `KEY=A,B` is one axis; a key that stands twice has the values of both.

    KEY: one of `--set`; `method`, one method in the place of the recipe's (values may have settings: `slm:keep=0.8`);
    or `keep`, which is set in every method of the candidate. Raises ValueError.
    """
    axes: dict[str, list[str]] = {}
    for entry in grid:
        key, equals, values = entry.partition("=")
        if not equals or not values:
            raise ValueError(f"--grid {entry!r} is not KEY=A,B")
        split = _BEFORE_A_METHOD.split(values) if key == "method" else values.split(",")
        axes.setdefault(key, []).extend(split)
    if twice := [f"{key}={value}" for key, values in axes.items() for value in values if values.count(value) > 1]:
        raise ValueError(f"--grid has {twice[0]} twice")
    made = [_candidate(recipe, dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
    if len(made) > MOST:
        raise ValueError(f"the grid has {len(made):,} candidates, more than {MOST:,}")
    return made


def _candidate(recipe: Recipe, changes: dict[str, str]) -> Candidate:
    found = recipe
    if "method" in changes:
        found = altered(found, [f"methods=['{changes['method']}']"])
    plain = [f"{key}={value}" for key, value in changes.items() if key not in ("method", "keep")]
    found = altered(found, plain)
    if "keep" in changes:
        if not found.methods:
            raise ValueError("--grid keep: the recipe has no method; give --grid method=… too")
        found = altered(found, [f"methods.{n}.keep={changes['keep']}" for n in range(len(found.methods))])
    if found.goal is not None or not found.methods:
        raise ValueError("a sweep is over methods: the recipe has none, or a goal in their place")
    return Candidate(found, changes)
