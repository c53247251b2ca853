"""share_weights for the planner: the tensors of another block in the place of a block's own, counted once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from foldrank.edits.share_weights import ShareWeights
from foldrank.plans.models.decoder import Decoder


def simulated(edit: ShareWeights, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder with a block that reads another's weights."""
    block, lender = decoder.block(edit.block), decoder.block(edit.of)
    names = {site.role: lender.shared.get(site.role, str(owner)) for site, owner in edit.borrows.items()}
    lending = lender.with_shared(lender, names)
    return decoder.with_block(lending).with_block(block.with_shared(lending, names))
