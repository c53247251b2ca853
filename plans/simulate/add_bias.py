"""add_bias for the planner: a vector more in a linear's bias."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from foldrank.edits.add_bias import AddBias
from foldrank.plans.models.decoder import Decoder


def simulated(edit: AddBias, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder with the bias."""
    bias = torch.from_numpy(np.array(arrays[edit.bias])).to(decoder.device)
    return decoder.with_block(decoder.block(edit.site.block).with_bias(edit.site.role, bias))
