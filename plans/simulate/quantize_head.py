"""quantize_head for the planner: the head rounded to what few bits can say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from foldrank.edits.quantize_head import QuantizeHead
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.packing import held_in, unpacked
from foldrank.plans.models.rounding import rounded


def simulated(edit: QuantizeHead, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder with a head of its own."""
    if edit.held:
        return decoder.with_head(unpacked(held_in(arrays, edit.held[0]), edit.storage, edit.shape[0]).values)
    return decoder.with_head(rounded(decoder.head, edit.storage))
