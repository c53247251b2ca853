"""The solver on a small decoder, and what it stores, counted from the edits."""

from __future__ import annotations

from typing import Any

import numpy as np

from foldrank.edits.base import BRANCHES
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.edits.slice_mlp import SliceMlp
from foldrank.plans.method import Result, Task
from foldrank.plans.methods.auto import run
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.solver.settings import Settings


def solved(decoder: Decoder, ids: np.ndarray, **options: Any) -> Result:
    """In steps of four: with a choice for every rank the programs take three times as long."""
    settings = Settings(**{"effort": "low", "align": 4, "width_align": 4, **options})
    return run(Task(decoder, ids, 0, source=decoder), settings)


def stored_numbers(decoder: Decoder, result: Result) -> int:
    """Numbers in the sites, counted from the edits alone."""
    numbers = {(block.number, role): block.weight(role).numel() for block in decoder.blocks for role in block.roles}
    for edit in result.edits:
        if isinstance(edit, FoldBlocks):
            numbers = {site: count for site, count in numbers.items() if site[0] not in edit.leaving}
        elif isinstance(edit, DropBranch):
            numbers = {site: count for site, count in numbers.items()
                       if site[0] != edit.block or site[1] not in BRANCHES[edit.branch]}
        elif isinstance(edit, SliceMlp):
            for role in edit.roles:
                numbers[edit.block, role] = edit.shape[1] * len(edit.channels)
        elif isinstance(edit, LowRank):
            share = edit.rank * sum(edit.shape) / len(edit.site.roles)
            numbers |= {(edit.site.block, role): share for role in edit.site.roles}
    return round(sum(numbers.values()))
