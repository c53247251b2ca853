"""How far a model's logits move by float32's rounding alone: a fixed limit calls what amplifies it faulty."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import psutil

from foldrank.runtime.proof.compare import Comparison
from foldrank.runtime.proof.graph_proof import Compared
from foldrank.tolerances import GRAPH_PROOF_FP32, GRAPH_PROOF_MOST, GRAPH_PROOF_NOISES, GRAPH_PROOF_RARE
from foldrank.verbs.torch_logits import logits_of


def own_limit(found: Sequence[Compared], limit: float, model: Any, *, margin: float = 1.0) -> float:
    """`limit`, or where `margin` times the largest error found lies a little above it, what the model's own rounding on
    the same tokens allows: some times the distance of PyTorch's float32 from its float64. At most GRAPH_PROOF_MOST, or
    GRAPH_PROOF_RARE where all but a hundredth of the positions of each comparison are within GRAPH_PROOF_FP32.

    `model` is a PyTorch model of either dtype; it is copied into the other, and only where that can change the answer
    and there is memory for it: else a warning, and `limit`.
    """
    if not found:
        return limit
    worst = max(found, key=lambda one: one.relative_error)
    rare = all(margin * one.usual_error <= GRAPH_PROOF_FP32 for one in found)
    most = GRAPH_PROOF_RARE if rare else GRAPH_PROOF_MOST
    if worst.worst is None or not limit < margin * worst.relative_error <= most:
        return limit
    import torch

    other_dtype = torch.float32 if next(model.parameters()).dtype == torch.float64 else torch.float64
    needed = other_dtype.itemsize * sum(part.numel() for part in (*model.parameters(), *model.buffers()))
    if needed > psutil.virtual_memory().available:
        logging.getLogger("foldrank").warning(
            "the model's own rounding is not known: its copy in %s needs %.1f GiB of memory; the limit stays %g",
            str(other_dtype).removeprefix("torch."), needed / 2**30, limit)
        return limit
    noise = Comparison("PyTorch in another precision")
    noise.add(logits_of(model)(worst.worst), logits_of(copy.deepcopy(model).to(other_dtype))(worst.worst))
    return max(limit, min(most, GRAPH_PROOF_NOISES * noise.relative_error))
