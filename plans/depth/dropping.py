"""What methods that drop whole blocks share: how many leave, the folds that make them leave, what blocks are worth.

A block leaves by a fold into the block that stays below it, with all its weights and norm gains. Block 0 stays.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.plans.criteria.gates import gates
from foldrank.plans.criteria.judging import Criterion, Unit, judge
from foldrank.plans.method import Result, Task
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shelf import Figures
from foldrank.plans.simulate import apply_edits
from foldrank.progress import Progress, track

OfBlocks = Criterion | Literal["gates"]
"""What whole blocks may be judged by: gates need not be asked one by one."""


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Depth:
    """Exactly one of keep (share of blocks left, at most) and blocks (number left). `windows`, `tokens` of the text."""

    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    blocks: Annotated[int, Field(ge=1)] | None = None
    windows: Annotated[int, Field(ge=1)] = 16
    tokens: Annotated[int, Field(ge=2)] = 512

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.blocks is None):
            raise ValueError("give exactly one of keep, blocks")

    def left(self, task: Task) -> int:
        """Blocks that stay. Raises ValueError where that is none; the small term undoes 0.29 * 100 = 28.99..."""
        count = len(task.decoder.blocks)
        left = self.blocks if self.keep is None else math.floor(self.keep * count + 1e-9)
        if not left:
            raise ValueError(f"keep={self.keep} of {count} blocks leaves none")
        return min(left, count)

    def ids(self, task: Task) -> np.ndarray:
        """The token ids [N, T] to judge blocks by."""
        return task.ids[: self.windows, : self.tokens]


def without(task: Task, leaving: Collection[int], scores: dict[str, float] | None = None) -> Result:
    """The model without these blocks."""
    numbers = [block.number for block in task.decoder.blocks]
    folds: list[FoldBlocks] = []
    for kept in (number for number in numbers if number not in leaving):
        above = [kept]
        while above[-1] + 1 in leaving:
            above.append(above[-1] + 1)
        if len(above) > 1:
            coefficients = {block: float(block == kept) for block in above}
            folds.append(FoldBlocks(into=kept, blocks=tuple(above), coefficients=coefficients))
    return Result(
        apply_edits(folds, task.decoder, {}), tuple(folds), kept=1 - len(leaving) / len(numbers),
        diagnostics={} if scores is None else {"block_scores": scores},
    )


@dataclass(frozen=True)
class Text:
    """The calibration text run through a model once: the input [N, T, C] of every block, and the last output."""

    decoder: Decoder
    ids: np.ndarray
    states: tuple[Tensor, ...]

    @classmethod
    def through(cls, decoder: Decoder, ids_NT: np.ndarray) -> Text:
        """Run it."""
        states = [decoder.embed(ids_NT)]
        with torch.no_grad():
            for block in decoder.blocks:
                states.append(decoder.run(block, states[-1]))
        return cls(decoder, ids_NT, tuple(states))

    def scores(
        self, criterion: OfBlocks, figures: Figures, seed: int, stage: str, progress: Progress
    ) -> dict[int, float]:
        """What the criterion says of all blocks but the lowest, by number; those the shelf has are not judged again."""
        numbers = [block.number for block in self.decoder.blocks]
        if criterion == "gates":
            return self._gated(figures, numbers, seed, progress)
        judged = judge(criterion, self.decoder, self.ids, seed)
        return {
            number: figures.of(f"{numbers} without {number}", functools.partial(judged, self.unit(position)))
            for position, number in track([*enumerate(numbers)][1:], stage, len(numbers) - 1, progress)
        }

    def _gated(self, figures: Figures, numbers: list[int], seed: int, progress: Progress) -> dict[int, float]:
        trained = functools.cache(lambda: gates(self.decoder, self.ids, seed, progress))

        def gate(place: int) -> float:
            return trained()[place]

        return {number: figures.of(f"{numbers} gate {number}", functools.partial(gate, place))
                for place, number in enumerate(numbers[1:])}

    def unit(self, position: int) -> Unit:
        """The block at this position."""
        below, above = self.states[position : position + 2]
        return Unit(position, below, above, above, lambda: below)


def one_shot(task: Task, settings: Depth, criterion: OfBlocks, stage: str) -> Result:
    """The blocks leave together that the criterion, asked once, finds cheapest. Raises ValueError where none would be
    left."""
    leaving = len(task.decoder.blocks) - settings.left(task)
    text, figures = Text.through(task.decoder, settings.ids(task)), Figures(task.shelf, criterion)
    scores = text.scores(criterion, figures, task.seed, stage, task.progress)
    return without(task, least(scores, leaving), {str(block): score for block, score in scores.items()})


def least(scores: dict[int, float], count: int) -> frozenset[int]:
    """The `count` blocks with the lowest scores; the upper one where two are equal."""
    return frozenset(sorted(scores, key=lambda block: (scores[block], -block))[:count])
