"""TensorRT: the provider with everything its session is to be given, or the reason why it cannot work.

Refuses graphs that TensorRT's parser does not know before an engine is built, which takes minutes. Adds shape profiles,
the graph's precision and the caches to the options; what the user gave wins. The names of options are those of
ONNX Runtime ("TensorRT Execution Provider", section Configurations). Not verified on hardware.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from foldrank.bundle.configs import context_length, head_size
from foldrank.errors import ProviderUnavailable
from foldrank.graph.summary import Summary, summary_of
from foldrank.ports import Port
from foldrank.runtime.providers import libnvinfer
from foldrank.runtime.providers.provider import Provider
from foldrank.runtime.providers.tensorrt_cache import cache_options
from foldrank.runtime.providers.tensorrt_profile import GIVEN, OURS, Ranges, check_options, profile

CONTRIB_DOMAIN = "com.microsoft"
CONTRIB_ELSEWHERE = frozenset({"SimplifiedLayerNormalization"})
"""Operators of ONNX Runtime alone that stand in ONNX's own domain (onnxruntime/docs/ContribOperators.md lists the
others)."""

_PRECISIONS = {"tensor(float16)": "trt_fp16_enable", "tensor(bfloat16)": "trt_bf16_enable"}


def prepared(model: Path, provider: Provider) -> Provider:
    """The provider with the options that a session of this model.onnx is given.

    Raises ValueError for options of ours that make no sense; ProviderUnavailable where the graph has operators that
    TensorRT does not know, or its libraries are missing; GraphNotRecognized, SourceError, UnsafeModel.
    """
    check_options(provider.options)
    graph = summary_of(model)
    refuse_unknown_operators(model, graph)
    version = libnvinfer.load_tensorrt()
    given = {name: value for name, value in provider.options.items() if name not in OURS}
    options = {**profiled(model, graph, provider), **precision(graph), **given}
    caches = cache_options(model, graph.data_files, options, version)
    return replace(provider, options={**caches, **options})


def refuse_unknown_operators(model: Path, graph: Summary) -> None:
    """Raises ProviderUnavailable with the count of every operator that only ONNX Runtime knows."""
    unknown = {op: count for (domain, op), count in sorted(graph.operators.items())
               if domain == CONTRIB_DOMAIN or (not domain and op in CONTRIB_ELSEWHERE)}
    if unknown:
        listed = ", ".join(f"{count} {op}" for op, count in unknown.items())
        few_bits = unknown.keys() & {"MatMulNBits", "GatherBlockQuantized"}
        ways_out = ["export with --exporter transformers (or optimum), which write ONNX's own operators"]
        if few_bits:
            ways_out.append("plan few bits as standard operators (quantize:form=qdq)")
        raise ProviderUnavailable(
            f"{model} on tensorrt", f"TensorRT cannot parse {listed}",
            "; ".join(ways_out if unknown.keys() - few_bits else ways_out[1:]))


def precision(graph: Summary) -> dict[str, str]:
    """The option that allows the numbers the cache is kept in, or the logits where there is none; empty for fp32, which
    is never lowered unasked."""
    cache = {port.type for name, port in graph.inputs.items() if name.startswith("past_key_values.")}
    logits = graph.outputs.get("logits", Port((), "")).type
    kinds = cache or {logits}
    return {_PRECISIONS[kind]: "1" for kind in kinds if len(kinds) == 1 and kind in _PRECISIONS}


def profiled(model: Path, graph: Summary, provider: Provider, names: Sequence[str] = GIVEN) -> dict[str, str]:
    """Shape profiles, as options of those names. Nothing where the user gave them, or the graph is no decoder: the
    provider then finds shapes itself."""
    if "input_ids" not in graph.inputs or any(name in provider.options for name in names):
        return {}
    folder = model.parent
    ranges = Ranges.of(provider.options, lambda: context_length(folder))
    return profile(model, graph.inputs, ranges, lambda: head_size(folder), names)
