"""Shortened LLaMA (arXiv 2402.02834), its perplexity criterion: drop at once the blocks each dispensable alone.

Every block is left out in turn; those whose absence costs least loss on the calibration text leave together. The paper
also keeps the first four and last two of 32 blocks out of the choice; here all but block 0 may leave.
"""

from __future__ import annotations

from foldrank.plans.depth.dropping import Depth, Text, least, without
from foldrank.plans.method import Method, Result, Task
from foldrank.progress import track


def run(task: Task, settings: Depth) -> Result:
    """Drop them. Cost: half a forward pass for each block. Raises ValueError where no block would be left."""
    count = len(task.decoder.blocks)
    text = Text.through(task.decoder, settings.ids(task))
    scores = {
        task.decoder.blocks[position].number: text.loss_without(position)
        for position in track(range(1, count), "shortened", count - 1, task.progress)
    }
    return without(task, least(scores, count - settings.left(task)), {str(b): s for b, s in scores.items()})


METHOD = Method("shortened", Depth, run, folds=True)
