"""An ONNX Runtime session whose threads, provider and node placement are set and known, not guessed.

Opens graphs by path (from bytes they would be in memory twice). Knows nothing of what the graph computes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from foldrank.errors import ProviderUnavailable, SourceError, UnsafeModel
from foldrank.ports import Port
from foldrank.runtime.providers import openvino, plugins
from foldrank.runtime.providers.provider import LONG_NAMES, Provider, load_onnxruntime

HEAVY = frozenset({"MatMul", "Gemm", "MatMulNBits", "GroupQueryAttention", "MultiHeadAttention", "Attention"})
"""Operators that must run on the provider asked for; shape arithmetic may stay on the CPU."""

Spinning = Literal["always", "in_runs", "never"]
"""Whether idle threads of the pool spin: as ONNX Runtime does by default, only while a run lasts, or not at all."""


@dataclass(frozen=True)
class Session:
    """An open session. `placement` and `operators` count nodes, per provider and per type, after ONNX Runtime's
    optimisations."""

    model: Path
    provider: Provider
    threads: int
    handle: Any
    placement: dict[str, int]
    operators: dict[str, int]
    inputs: dict[str, Port]
    outputs: dict[str, Port]


def default_threads() -> int:
    """Physical cores, at most those this process may run on. Two threads on one core only disturb each other."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


def open_session(
    model: Path, provider: Provider, *, threads: int | None = None, spinning: Spinning = "always",
    settings: Mapping[str, str] | None = None, profile: Path | None = None, rounds: bool = True,
) -> Session:
    """Open model.onnx on exactly this provider.

    `rounds`: whether products with weights in few bits may round activations, as their `accuracy_level` says.

    `threads`: intra-op threads (default: `default_threads`); inter-op is 1. `settings`: further session config entries.
    `profile`: ONNX Runtime writes its profile beside files of that name when profiling ends. TensorRT gets its shape
    profiles and caches here (`tensorrt.prepared`), plugins what is theirs; the session's `provider` has the options
    that were handed over.
    Raises ProviderUnavailable where the provider does not start or heavy operators land elsewhere, SourceError (no
    file), UnsafeModel (not a graph ONNX Runtime accepts).
    """
    ort = load_onnxruntime()
    if not model.is_file():
        raise SourceError(model, "no such file", "give a bundle's model.onnx")
    threads = threads or default_threads()
    provider = _prepared(ort, model.absolute(), provider, threads)
    graph: str | bytes = str(model.absolute())
    if not rounds:
        from foldrank.graph.accuracy import in_float32  # reads graphs, as above

        graph, settings = in_float32(model), {**(settings or {}), **_in_floats(model.absolute())}
    options = _options(ort, threads, spinning, settings or {})
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    handle = _create(ort, model, graph, provider, options)
    placed = _placement(handle)
    _check_provider(model, provider, handle.get_providers(), placed)
    return Session(
        model, provider, threads, handle, dict(Counter(name for name, _ in placed)),
        dict(sorted(Counter(op for _, op in placed).items())),
        {port.name: Port(tuple(port.shape), port.type) for port in handle.get_inputs()},
        {port.name: Port(tuple(port.shape), port.type) for port in handle.get_outputs()},
    )


def open_small(graph: bytes, provider: Provider) -> Any:
    """A plain ONNX Runtime session of a small graph of ours on the device of a provider: CUDA's kernels on a GPU."""
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    on_gpu = provider.device != "cpu"
    name = LONG_NAMES["cuda"] if on_gpu else LONG_NAMES["cpu"]
    where = {"device_id": str(provider.device_id)} if on_gpu else {}
    return ort.InferenceSession(graph, options, providers=[(name, where)])


def spinning_entries(spinning: Spinning) -> dict[str, str]:
    """Session config entries for that way of spinning."""
    return {
        "session.intra_op.allow_spinning": "0" if spinning == "never" else "1",
        "session.force_spinning_stop": "1" if spinning == "in_runs" else "0",
    }


def _in_floats(model: Path) -> dict[str, str]:
    """Where weights lie of a graph that is not opened by its path, and the accuracy level of products that ONNX Runtime
    itself makes of DequantizeLinear."""
    return {"session.model_external_initializers_file_folder_path": str(model.parent),
            "session.qdq_matmulnbits_accuracy_level": "0"}


def _options(ort: Any, threads: int, spinning: Spinning, settings: Mapping[str, str]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    entries = {
        "session.record_ep_graph_assignment_info": "1",
        **spinning_entries(spinning),
        **settings,
    }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return options


def _prepared(ort: Any, model: Path, provider: Provider, threads: int) -> Provider:
    """With the options that follow from the graph. What reads graphs is imported here alone: it takes memory that no
    other session should show."""
    match provider.short:
        case "tensorrt" if provider.name in ort.get_available_providers():
            from foldrank.runtime.providers.tensorrt import prepared

            return prepared(model, provider)
        case "tensorrt-rtx":
            from foldrank.runtime.providers import tensorrt_rtx

            return tensorrt_rtx.prepared(model, provider)
        case "openvino":
            return openvino.prepared(provider, threads)
    return provider


def _create(ort: Any, model: Path, graph: str | bytes, provider: Provider, options: Any) -> Any:
    state = ort.capi.onnxruntime_pybind11_state
    graph_faults = (state.InvalidGraph, state.InvalidProtobuf, state.InvalidArgument, state.NoModel,
                    state.NoSuchFile, state.NotFound)
    try:
        if provider.plugged:
            options.add_provider_for_devices([plugins.device(ort, provider.short, provider.options)],
                                             plugins.given(provider.options))
            return ort.InferenceSession(graph, options, enable_fallback=False)
        return ort.InferenceSession(
            graph, options, providers=[(provider.name, dict(provider.options))], enable_fallback=False
        )
    except state.NotImplemented as error:
        way_out = "export with a --dtype this provider has kernels for (the CPU provider has none for bf16)"
        raise ProviderUnavailable(f"{model} on {provider.short}", _line(error), way_out) from None
    except graph_faults as error:
        raise UnsafeModel(model, _line(error), "export or apply again") from None
    except (state.Fail, state.RuntimeException, state.EPFail, RuntimeError, ValueError) as error:
        if provider.short == "cpu":  # the CPU provider always starts: what fails is the graph or its data file
            raise UnsafeModel(model, _line(error), "export or apply again") from None
        where = f"{model} on {provider.short}"
        raise ProviderUnavailable(where, _line(error), "`foldrank doctor` tells what starts") from None


def _placement(handle: Any) -> list[tuple[str, str]]:
    """(provider, operator) of every node that is left after optimisation."""
    return [
        (group.ep_name, node.op_type)
        for group in handle.get_provider_graph_assignment_info() for node in group.get_nodes()
    ]


def _check_provider(model: Path, provider: Provider, started: list[str], placed: list[tuple[str, str]]) -> None:
    """ONNX Runtime moves to the CPU without an error where a provider does not start or lacks an operator."""
    where = f"{model} on {provider.short}"
    if provider.name not in started:
        instead = f"did not start; ONNX Runtime would use {', '.join(started)}"
        raise ProviderUnavailable(where, instead, "`foldrank doctor` tells why")
    strays = Counter(op for name, op in placed if op in HEAVY and name != provider.name)
    if strays:
        listed = ", ".join(f"{count} {op}" for op, count in sorted(strays.items()))
        way_out = "choose another --dtype or --provider"
        if "MatMulNBits" in strays:
            way_out += ", or plan few bits as standard operators (quantize:form=qdq)"
        raise ProviderUnavailable(where, f"would run {listed} elsewhere", way_out)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
