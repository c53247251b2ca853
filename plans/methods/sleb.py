"""SLEB (arXiv 2402.09025): again and again drop the block whose absence raises the calibration loss least.

Unlike a one-shot choice, every block is judged on the model as the drops before left it.
"""

from __future__ import annotations

from foldrank.edits.base import Phase
from foldrank.plans.depth.dropping import Depth, Text, least, without
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.shelf import Figures


def run(task: Task, settings: Depth) -> Result:
    """Drop them. Cost: half a forward pass for each block and drop. Raises ValueError where no block would be left."""
    decoder, drops = task.decoder, len(task.decoder.blocks) - settings.left(task)
    leaving: dict[int, float] = {}
    figures = Figures(task.shelf, "losses")
    for drop in range(drops):
        text = Text.through(decoder, settings.ids(task))
        losses = text.losses_without(figures, f"sleb, drop {drop + 1} of {drops}", task.progress)
        (worst,) = least(losses, 1)
        leaving[worst] = losses[worst]
        decoder = decoder.with_blocks([block for block in decoder.blocks if block.number != worst])
    return without(task, leaving, {str(b): loss for b, loss in leaving.items()})


METHOD = Method("sleb", Depth, run, phase=Phase.BLOCKS)
