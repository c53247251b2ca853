"""quantize_embedding for the planner: the table of words, and the head with it where they are one, in few bits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from foldrank.edits.quantize_embedding import QuantizeEmbedding
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.rounding import rounded


def simulated(edit: QuantizeEmbedding, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder with another table."""
    table = rounded(decoder.table, edit.storage)
    made = decoder.with_table(table)
    return made.with_head(table) if edit.head else made
