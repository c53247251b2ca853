"""How far a fresh fp32 export may be from PyTorch: a fixed limit, or what float32 itself costs this model.

A model can magnify rounding: the logits of a random Gemma move by 2e-5 when PyTorch itself computes it in float32. It
magnifies a fault in its graph as much, so that a limit that follows the rounding still finds it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from foldrank.runtime.compare import Comparison
from foldrank.runtime.decoding import Tokens
from foldrank.runtime.proof import Criterion
from foldrank.tolerances import EXPORT_PROOF_FP32, EXPORT_PROOF_KL_NATS, GRAPH_PROOF_FP32
from foldrank.verbs.reference import logits_of

ROUNDINGS = 4
"""Kernels sum in another order than PyTorch's: their rounding is of the same size, not the same."""


def limit_for(criterion: Criterion, model: Any, windows: Sequence[Tokens], worst: float) -> float:
    """The limit for figures of which `worst` is the largest, on windows of token ids [B, T].

    PyTorch's rounding is measured only where the fixed limit is passed and the model is in float64, and never excuses
    more than the graph proof of a compressed bundle would.
    """
    fixed = EXPORT_PROOF_KL_NATS if criterion.coarse else EXPORT_PROOF_FP32
    if worst <= fixed or criterion.coarse:
        return fixed
    return max(fixed, min(GRAPH_PROOF_FP32, ROUNDINGS * rounding(model, windows)))


def rounding(model: Any, windows: Sequence[Tokens]) -> float:
    """Largest error of PyTorch in float32 over the largest logit of float64; 0 where the model is not in float64."""
    import torch

    if next(model.parameters()).dtype != torch.float64:
        return 0.0
    exact, coarse = logits_of(model), logits_of(copy.deepcopy(model).float())
    found = Comparison("PyTorch in float32")
    for ids_BT in windows:
        found.add(exact(ids_BT), coarse(ids_BT))
    return found.relative_error
