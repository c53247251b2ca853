"""What a method is to the planner: a name, settings that check themselves, and a function from a model to edits.

Knows no method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foldrank.edits import Edit
from foldrank.edits.base import Phase
from foldrank.model.opening import PLAIN, Opening
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shards import HERE, Shards
from foldrank.plans.shelf import MemoryShelf, Shelf
from foldrank.progress import SILENT, Progress


@dataclass(frozen=True)
class Task:
    """What a method is given: the model as the methods before left it, token ids [N, T], and the model they began with.

    `shelf` is for findings that an interrupted plan need not make again. `opening`: what each window starts with.
    `shards`: where and in how many parts sums over the windows are made.
    """

    decoder: Decoder
    ids: np.ndarray
    seed: int
    source: Decoder
    progress: Progress = SILENT
    shelf: Shelf = field(default_factory=MemoryShelf)
    opening: Opening = PLAIN
    shards: Shards = HERE


@dataclass(frozen=True)
class Result:
    """What a method gives back. `kept` is the share of the site weights it was given that it leaves."""

    decoder: Decoder
    edits: tuple[Edit, ...]
    kept: float
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    predicted: Mapping[str, float | int] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)


def _nothing(_settings: Any) -> None:
    """Nothing is needed beyond what is imported already."""


@dataclass(frozen=True)
class Method:
    """One row of the table of methods. `settings` is a pydantic dataclass; `run(task, settings)` does the work.

    `ready` raises ProviderUnavailable where what these settings need is not installed. Methods run in the order of
    `phase`, that of their first edits; `until` is that of the last ones, where those are of a later phase, or tells it
    from the settings. A method with `settled` changes the model that all others are given, and comes first: once their
    edits are known, with the arrays of these, it says what is left to its own, given its result and the source.
    """

    name: str
    settings: type
    run: Callable[[Task, Any], Result]
    phase: Phase
    until: Phase | Callable[[Any], Phase] | None = None
    ready: Callable[[Any], None] = _nothing
    settled: Callable[[Result, Decoder, Sequence[Edit], Mapping[str, np.ndarray]], Result] | None = None

    def last(self, settings: Any) -> Phase:
        """The phase of its last edits."""
        if self.until is None or isinstance(self.until, Phase):
            return self.until or self.phase
        return self.until(settings)
