"""Shortened LLaMA (arXiv 2402.02834), its perplexity criterion: drop at once the blocks each dispensable alone.

Every block is left out in turn; those whose absence costs least loss on the calibration text leave together; or, with
`criterion`, those that another measure of `criteria/judging.py` finds cheapest. The paper also keeps the first four and
last two of 32 blocks out of the choice; here all but block 0 may leave.
"""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as settings_dataclass

from foldrank.edits.base import Phase
from foldrank.plans.depth.dropping import Depth, OfBlocks, one_shot
from foldrank.plans.method import Method, Result, Task


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(Depth):
    """`criterion`: what a block is worth by."""

    criterion: OfBlocks = "loss"


def run(task: Task, settings: Settings) -> Result:
    """Drop them. Cost: half a forward pass for each block, with the loss. Raises ValueError where no block would be
    left."""
    return one_shot(task, settings, settings.criterion, "shortened")


METHOD = Method("shortened", Settings, run, phase=Phase.BLOCKS)
