"""What a bundle's graph is judged by: its checkpoint in PyTorch with the bundle's plan applied there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from foldrank.bundle.bundle import Bundle
from foldrank.errors import SourceError
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.dequantized import matrices
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.reports.validate import FewBitsKept
from foldrank.runtime.proof.graph_proof import Reference
from foldrank.tolerances import INT8
from foldrank.verbs.planned import planned_numbers
from foldrank.verbs.rounded import GivenBits
from foldrank.verbs.torch_logits import logits_of

_FLOAT64_WEIGHTS = 32_000_000


@dataclass(frozen=True)
class Known:
    """Logits of the reference, what it is called, and the precision in which the graph computes: the bundle's dtype, or
    int8 where it rounds activations to that. `kept`: whether weights of few bits that came with the source graph are in
    the bundle as they were there; `planned`: whether the numbers that its plan holds are. None where there are none."""

    logits: Reference
    described: str
    precision: str
    checkpoint: Checkpoint | None = None
    kept: FewBitsKept | None = None
    planned: FewBitsKept | None = None

    def in_floats(self, bundle: Bundle) -> Known:
        """What judges the same graph where it takes activations as they are: its weights alone, by the stricter
        limit. Where rounding activations moves a model's logits far, nothing else tells whether its graph is right."""
        return replace(self, precision=bundle.manifest.dtype, described=f"{self.described}, activations not rounded")


def reference_of(bundle: Bundle, checkpoint: Checkpoint, dense: Bundle | None = None) -> Known:
    """Float64 where the model is small, else float32. `dense`: the bundle that the plan was applied to; where its graph
    came with weights of few bits, the reference holds what those stand for, read from it. Raises PlanMismatch,
    PlanFormatError, GraphNotRecognized, BundleError.
    """
    from foldrank.plans.reference import reference_model

    plan = None if bundle.plan is None else Plan.read(bundle.plan)
    dtype, given = _dtype(checkpoint), GivenBits.of(bundle, plan, dense)
    network = reference_model(checkpoint, plan, dtype, stored=bundle.manifest.dtype,
                              rounded_weights=matrices(given.source))
    applied = ", no plan" if plan is None else ", plan applied there"
    count = sum(len(linear.sites) for linear in given.source)
    held = f", dequantised: {count} weights of {given.source_name}" if count else ""
    described = f"{checkpoint.name} in PyTorch, {str(dtype).removeprefix('torch.')}{held}{applied}"
    rounding = given.rounds_activations or (plan is not None and plan.rounds_activations)
    return Known(logits_of(network), described, INT8 if rounding else bundle.manifest.dtype, checkpoint,
                 given.kept(plan), None if plan is None else planned_numbers(load_model(bundle.model), plan))


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


def _dtype(checkpoint: Checkpoint) -> Any:
    import torch

    weights = sum(t.size for t in checkpoint.tensors.values())
    return torch.float64 if weights <= _FLOAT64_WEIGHTS else torch.float32
