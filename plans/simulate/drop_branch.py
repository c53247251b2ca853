"""drop_branch for the planner: the branch's last linear gives zeros, and its weights count no more."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from foldrank.edits.drop_branch import DropBranch
from foldrank.plans.models.decoder import Decoder


def simulated(edit: DropBranch, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder without the branch; without the block, where that has nothing left."""
    block = decoder.block(edit.block).without(edit.branch)
    if block.roles:
        return decoder.with_block(block)
    return decoder.with_blocks([other for other in decoder.blocks if other.number != edit.block])
