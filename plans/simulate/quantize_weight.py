"""quantize_weight for the planner: a weight, or each factor of a pair, rounded to what few bits can say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.rounding import rounded


def simulated(edit: QuantizeWeight, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder with the site rounded; a pair of several roles is rounded with the first of them."""
    block, role, storage = decoder.block(edit.site.block), edit.site.role, edit.storage
    roles = next((roles for roles in block.pairs if role in roles), None)
    if roles is None:
        return decoder.with_block(block.with_weights({role: rounded(block.weight(role), storage)}))
    if role != roles[0]:
        return decoder
    pair = block.pairs[roles]
    few = replace(pair, a=rounded(pair.a, storage), b=rounded(pair.b, storage))
    return decoder.with_block(block.with_pairs({roles: few}))
