"""replace_weight for the planner: other weights for a site's roles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.plans.models.decoder import Decoder


def simulated(edit: ReplaceWeight, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder with the tensor's columns, role by role."""
    block, roles = decoder.block(edit.site.block), edit.site.roles
    whole = torch.from_numpy(np.array(arrays[edit.tensor])).to(decoder.device)
    parts = whole.split([block.weight(role).shape[1] for role in roles], dim=1)
    return decoder.with_block(block.with_weights(dict(zip(roles, parts, strict=True))))
