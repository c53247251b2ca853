"""What a bundle's graph is judged by: its checkpoint in PyTorch with the bundle's plan applied there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foldrank.bundle.bundle import Bundle
from foldrank.errors import SourceError
from foldrank.graph.precision import floats_of, precision_of, rotary_rows, wide_norms
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.dequantized import matrices
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.reports.validate import WeightsKept
from foldrank.runtime.proof.graph_proof import Allowed, Compared, Reference, fixed
from foldrank.tolerances import GRAPH_PROOF_FP32
from foldrank.verbs.own_noise import own_limit
from foldrank.verbs.planned import planned_numbers
from foldrank.verbs.rounded import GivenBits
from foldrank.verbs.torch_logits import logits_of
from foldrank.verbs.untouched import source_digests, weights_kept

_FLOAT64_WEIGHTS = 32_000_000


@dataclass(frozen=True)
class Known:
    """Logits of the reference, what it is called, and the precision that the graph itself computes in (fp32, fp16,
    bf16, or int8 where it rounds activations to that). `allowed`: fp32's limit for this model where a graph was found
    so far from it. `kept`: whether weights of few bits that came with the source graph are in the bundle as they were
    there; `planned`: whether the numbers that its plan holds are; None where there are none. `weights`: whether those
    that no edit touches are the checkpoint's."""

    logits: Reference
    described: str
    precision: str
    checkpoint: Checkpoint | None = None
    kept: WeightsKept | None = None
    planned: WeightsKept | None = None
    weights: WeightsKept | None = None
    allowed: Allowed = fixed


def reference_of(bundle: Bundle, checkpoint: Checkpoint, dense: Bundle | None = None) -> Known:
    """Float64 where the model is small, else float32. `dense`: the bundle that the plan was applied to; where its graph
    came with weights of few bits, the reference holds what those stand for, read from it. Raises PlanMismatch,
    PlanFormatError, GraphNotRecognized, BundleError.
    """
    from foldrank.plans.reference import reference_model
    from foldrank.plans.reference.stored import Stored

    plan, graph = None if bundle.plan is None else Plan.read(bundle.plan), load_model(bundle.model)
    dtype, given, floats = _dtype(checkpoint), GivenBits.of(bundle, graph, plan, dense), floats_of(graph)
    stored = Stored(floats, rotary=rotary_rows(graph) is not None, norms=not wide_norms(graph))
    source: dict[str, str] = {}
    network = reference_model(checkpoint, plan, dtype, stored=stored, rounded_weights=matrices(given.source),
                              seen=lambda model: source.update(source_digests(model, floats)))
    applied = ", no plan" if plan is None else ", plan applied there"
    count = sum(len(linear.sites) for linear in given.source)
    held = f", dequantised: {count} weights of {given.source_name}" if count else ""
    described = f"{checkpoint.name} in PyTorch, {str(dtype).removeprefix('torch.')}{held}{applied}"

    def allowed(found: Sequence[Compared], margin: float = 1.0) -> float:
        return own_limit(found, GRAPH_PROOF_FP32, network, margin=margin)

    return Known(logits_of(network), described, precision_of(graph), checkpoint, given.kept(plan),
                 None if plan is None else planned_numbers(graph, plan), weights_kept(graph, plan, source), allowed)


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
