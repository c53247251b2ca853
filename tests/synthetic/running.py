"""Run a graph in ONNX Runtime, whole or in steps, and compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)

def run_onnx(path: Path, ids: np.ndarray, steps: tuple[int, ...] | None = None) -> np.ndarray:
    """Logits [T, vocab] from ONNX Runtime, the sequence fed in pieces of the given lengths through the cache."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    cache = {}
    for entry in session.get_inputs():
        if "past_key_values" in entry.name:
            size = entry.shape[3] if isinstance(entry.shape[3], int) else 16
            dtype = np.float16 if "float16" in entry.type else np.float32
            cache[entry.name] = np.zeros((1, entry.shape[1], 0, size), dtype)
    names = [output.name for output in session.get_outputs()]
    results, start = [], 0
    for length in steps or (len(ids),):
        stop = start + length
        feed = {"input_ids": ids[None, start:stop], "attention_mask": np.ones((1, stop), np.int64), **cache}
        if any(entry.name == "position_ids" for entry in session.get_inputs()):
            feed["position_ids"] = np.arange(start, stop)[None]
        found = dict(zip(names, session.run(names, feed), strict=True))
        results.append(found["logits"][0])
        cache = {name: found[_present(name)] for name in cache}
        start = stop
    return np.concatenate(results)


def _present(past: str) -> str:
    """The output that follows a cache input, as exporters and as bundles call it."""
    if past.startswith("input."):
        return past.replace("input.", "output.", 1)
    return past.replace("past_key_values", "present")


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute error over the largest expected magnitude."""
    assert found.shape == expected.shape
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())


def widened(source: Path, target: Path) -> Path:
    """The graph with every half-precision type float32, weights as stored: what it says, without its rounding."""
    model = onnx.load(source)
    graph = model.graph
    tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.HasField("t"))]
    for tensor in tensors:
        if tensor.data_type in HALVES:
            wide = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in HALVES:
                attribute.i = TensorProto.FLOAT
    onnx.save(model, target)
    return target
