"""Shortened LLaMA (arXiv 2402.02834), its perplexity criterion: drop at once the blocks each dispensable alone.

Every block is left out in turn; those whose absence costs least loss on the calibration text leave together. The paper
also keeps the first four and last two of 32 blocks out of the choice; here all but block 0 may leave.
"""

from __future__ import annotations

from foldrank.edits.base import Phase
from foldrank.plans.depth.dropping import Depth, Text, least, without
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.shelf import Figures


def run(task: Task, settings: Depth) -> Result:
    """Drop them. Cost: half a forward pass for each block. Raises ValueError where no block would be left."""
    count = len(task.decoder.blocks)
    text = Text.through(task.decoder, settings.ids(task))
    scores = text.losses_without(Figures(task.shelf, "losses"), "shortened", task.progress)
    return without(task, least(scores, count - settings.left(task)), {str(b): s for b, s in scores.items()})


METHOD = Method("shortened", Depth, run, phase=Phase.BLOCKS)
