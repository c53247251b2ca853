"""SLEB (arXiv 2402.09025): again and again drop the block whose absence raises the calibration loss least.

Unlike a one-shot choice, every block is judged on the model as the drops before left it; with `criterion` by another
measure of `criteria/judging.py`.
"""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as settings_dataclass

from foldrank.edits.base import Phase
from foldrank.plans.depth.dropping import Depth, OfBlocks, Text, least, without
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.shelf import Figures


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(Depth):
    """`criterion`: what a block is worth by."""

    criterion: OfBlocks = "loss"


def run(task: Task, settings: Settings) -> Result:
    """Drop them. Cost, with the loss: half a forward pass for each block and drop. Raises ValueError where no block
    would be left."""
    decoder, drops = task.decoder, len(task.decoder.blocks) - settings.left(task)
    leaving: dict[int, float] = {}
    figures = Figures(task.shelf, settings.criterion)
    for drop in range(drops):
        text = Text.through(decoder, settings.ids(task))
        scores = text.scores(settings.criterion, figures, task.seed, f"sleb, drop {drop + 1} of {drops}", task.progress)
        (worst,) = least(scores, 1)
        leaving[worst] = scores[worst]
        decoder = decoder.with_blocks([block for block in decoder.blocks if block.number != worst])
    return without(task, leaving, {str(b): score for b, score in leaving.items()})


METHOD = Method("sleb", Settings, run, phase=Phase.BLOCKS)
