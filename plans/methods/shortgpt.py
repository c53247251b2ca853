"""ShortGPT (arXiv 2403.03853): drop the blocks that turn their input least.

Block influence is 1 - E[cos(x, block(x))] over the tokens of the calibration text, measured once on the whole model;
or, with `criterion`, another measure of `criteria/judging.py` in its place.
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

    criterion: OfBlocks = "similarity"


def run(task: Task, settings: Settings) -> Result:
    """Drop them. Raises ValueError where no block would be left."""
    return one_shot(task, settings, settings.criterion, "shortgpt")


METHOD = Method("shortgpt", Settings, run, phase=Phase.BLOCKS)
