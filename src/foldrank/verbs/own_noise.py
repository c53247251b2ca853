"""How far a model's logits move by float32's rounding alone: a fixed limit calls what amplifies it faulty."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from foldrank.runtime.decoding.decoder import Tokens
from foldrank.runtime.proof.compare import Comparison
from foldrank.tolerances import GRAPH_PROOF_MOST, GRAPH_PROOF_NOISES
from foldrank.verbs.torch_logits import logits_of


def own_limit(value: float, limit: float, model: Any, ids: Sequence[Tokens]) -> float:
    """`limit`, or where `value` lies a little above it, what the model's own rounding on the same tokens allows: some
    times the distance of PyTorch's float32 from its float64, at most GRAPH_PROOF_MOST.

    `model` is a PyTorch model of either dtype; it is copied into the other, and only where that can change the answer.
    """
    if not limit < value <= GRAPH_PROOF_MOST:
        return limit
    import torch

    other_dtype = torch.float32 if next(model.parameters()).dtype == torch.float64 else torch.float64
    here, there = logits_of(model), logits_of(copy.deepcopy(model).to(other_dtype))
    found = Comparison("PyTorch in another precision")
    for ids_BT in ids:
        found.add(here(ids_BT), there(ids_BT))
    return max(limit, min(GRAPH_PROOF_MOST, GRAPH_PROOF_NOISES * found.relative_error))
