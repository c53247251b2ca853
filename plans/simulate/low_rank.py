"""low_rank for the planner: A B in the place of W."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from foldrank.edits.low_rank import LowRank
from foldrank.plans.models.block import Pair
from foldrank.plans.models.decoder import Decoder


def simulated(edit: LowRank, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder with the pair."""
    a, b = (torch.from_numpy(np.array(arrays[name])).to(decoder.device) for name in edit.factors)
    return decoder.with_block(decoder.block(edit.site.block).with_pairs({edit.site.roles: Pair(a, b, edit.factors[0])}))
