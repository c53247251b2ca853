"""add_low_rank for the planner: W + A B in the place of W, and the pair's numbers counted beside W's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from foldrank.edits.add_low_rank import AddLowRank
from foldrank.plans.models.block import Pair
from foldrank.plans.models.decoder import Decoder


def simulated(edit: AddLowRank, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder with the pair beside what it has there."""
    a, b = (torch.from_numpy(np.array(arrays[name])).to(decoder.device) for name in edit.factors)
    block = decoder.block(edit.site.block)
    return decoder.with_block(block.with_beside({edit.site.roles: Pair(a, b, edit.factors[0])}))
