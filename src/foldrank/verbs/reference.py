"""What a bundle's graph is judged by: its checkpoint in PyTorch with the bundle's plan applied there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foldrank.bundle import Bundle
from foldrank.checkpoint import Checkpoint
from foldrank.errors import SourceError
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
    checkpoint: Checkpoint | None = None


def reference_of(bundle: Bundle, checkpoint: Checkpoint) -> Known:
    """Float64 where the model is small, else float32. Raises PlanMismatch, PlanFormatError."""
    from foldrank.plans.models.reference import reference_model

    plan = None if bundle.plan is None else Plan.read(bundle.plan)
    dtype = _dtype(checkpoint)
    network = reference_model(checkpoint, plan, dtype, stored=bundle.manifest.dtype)
    applied = ", no plan" if plan is None else ", plan applied there"
    described = f"{checkpoint.name} in PyTorch, {str(dtype).removeprefix('torch.')}{applied}"
    precision = "int8" if plan and plan.rounds_activations else bundle.manifest.dtype
    return Known(logits_of(network), described, precision, checkpoint)


def dense_model(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> Any:
    """The checkpoint in PyTorch, of whatever family transformers reads. Raises SourceError."""
    from transformers import AutoModelForCausalLM

    from foldrank.plans.models.families import FAMILIES
    from foldrank.plans.models.loading import load_model

    if checkpoint.architecture in FAMILIES:
        return load_model(checkpoint, dtype=_dtype(checkpoint))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint.path, dtype=_dtype(checkpoint), use_safetensors=True, local_files_only=True,
            trust_remote_code=trust_remote_code, attn_implementation="eager",
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SourceError(checkpoint.path, f"PyTorch cannot load it: {reason}", "check its files") from None
    return model.requires_grad_(False).eval()


def logits_of(network: Any) -> Reference:
    """Logits [B, T, V] of a transformers model, without a cache."""
    import torch

    def logits(ids_BT: Tokens) -> Any:
        with torch.inference_mode():
            return network(input_ids=torch.from_numpy(np.ascontiguousarray(ids_BT)), use_cache=False).logits.numpy()

    return logits


def _dtype(checkpoint: Checkpoint) -> Any:
    import torch

    weights = sum(t.size for t in checkpoint.tensors.values())
    return torch.float64 if weights <= _FLOAT64_WEIGHTS else torch.float32
