"""Unified layer skipping (arXiv 2404.06954): blocks at even distances stay, the first and the last among them.

The paper skips layers per request at run time; here the choice is made once. No calibration, hence the same for every
text: what a method that looks at the model must beat.
"""

from __future__ import annotations

import numpy as np

from foldrank.edits.base import Phase
from foldrank.plans.depth.dropping import Depth, without
from foldrank.plans.method import Method, Result, Task


def staying(count: int, left: int) -> frozenset[int]:
    """Positions that stay: `left` of `count`, evenly spaced from the first to the last."""
    return frozenset(np.linspace(0, count - 1, left).round().astype(int).tolist())


def run(task: Task, settings: Depth) -> Result:
    """Drop the others. Raises ValueError where no block would be left."""
    numbers = [block.number for block in task.decoder.blocks]
    stay = staying(len(numbers), settings.left(task))
    return without(task, frozenset(number for place, number in enumerate(numbers) if place not in stay))


METHOD = Method("unified_skip", Depth, run, phase=Phase.BLOCKS)
