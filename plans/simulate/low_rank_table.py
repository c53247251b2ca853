"""low_rank_table for the planner: A B in the place of the head, of the table of words, or of both."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from foldrank.edits.low_rank_table import LowRankTable
from foldrank.plans.models.block import Pair
from foldrank.plans.models.decoder import Decoder


def simulated(edit: LowRankTable, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder with the pair."""
    a, b = (torch.from_numpy(np.array(arrays[name])).to(decoder.device) for name in edit.factors)
    return decoder.with_factored(edit.parts, Pair(a, b))
