"""A PyTorch model as a proof asks it: token ids in, logits out."""

from __future__ import annotations

from typing import Any

import numpy as np

from foldrank.runtime.proof.graph_proof import Reference, Tokens


def logits_of(network: Any) -> Reference:
    """Logits [B, T, V] of a transformers model, without a cache."""
    import torch

    def logits(ids_BT: Tokens) -> Any:
        with torch.inference_mode():
            return network(input_ids=torch.from_numpy(np.ascontiguousarray(ids_BT)), use_cache=False).logits.numpy()

    return logits
