"""What a bundle's graph is judged by: its checkpoint in PyTorch with the bundle's plan applied there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foldrank.bundle import Bundle
from foldrank.checkpoint import Checkpoint
from foldrank.planfile import Plan
from foldrank.runtime.proof import Reference, Tokens

_FLOAT64_WEIGHTS = 32_000_000


@dataclass(frozen=True)
class Known:
    """Logits of the reference, what it is called, and the precision in which the graph computes: the bundle's dtype, or
    int8 where it rounds activations to that."""

    logits: Reference
    described: str
    precision: str


def reference_of(bundle: Bundle, checkpoint: Checkpoint) -> Known:
    """Float64 where the model is small, else float32. Raises PlanMismatch, PlanFormatError."""
    import torch

    from foldrank.plans.models.reference import reference_model

    plan = None if bundle.plan is None else Plan.read(bundle.plan)
    weights = sum(t.size for t in checkpoint.tensors.values())
    dtype = torch.float64 if weights <= _FLOAT64_WEIGHTS else torch.float32
    network = reference_model(checkpoint, plan, dtype, stored=bundle.manifest.dtype)

    def logits(ids_BT: Tokens) -> Any:
        with torch.inference_mode():
            return network(input_ids=torch.from_numpy(np.ascontiguousarray(ids_BT)), use_cache=False).logits.numpy()

    applied = ", no plan" if plan is None else ", plan applied there"
    described = f"{checkpoint.name} in PyTorch, {str(dtype).removeprefix('torch.')}{applied}"
    return Known(logits, described, "int8" if plan and plan.rounds_activations else bundle.manifest.dtype)
