"""How alike a model's blocks are, for the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from foldrank.plans.depth.similarity import debiased_cka
from foldrank.plans.models.decoder import Decoder

CKA_TOKENS = 512
"""Tokens the similarity map is taken over."""


def similarity_map(decoder: Decoder, ids_NT: np.ndarray) -> dict[str, Any]:
    """Debiased linear CKA between the outputs of all blocks over CKA_TOKENS tokens spread over the first windows."""
    used = ids_NT[: max(1, 4 * CKA_TOKENS // ids_NT.shape[1])]
    rows = torch.linspace(0, used.size - 1, min(CKA_TOKENS, used.size)).round().long()
    hidden, states = decoder.embed(used), []
    with torch.no_grad():
        for block in decoder.blocks:
            hidden = decoder.run(block, hidden)
            states.append(hidden.flatten(0, 1)[rows.to(hidden.device)].cpu().numpy())
    return {
        "measure": "debiased linear CKA", "blocks": [block.number for block in decoder.blocks],
        "matrix": debiased_cka(states).tolist(),
    }
