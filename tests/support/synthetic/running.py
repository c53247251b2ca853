"""Run a decoder's graph with ONNX Runtime alone, prefilled, through its cache, padded; and compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


AS_THEY_ARE = "session.qdq_matmulnbits_accuracy_level"
"""What ONNX Runtime makes of DequantizeLinear and MatMul rounds activations to int8 unless this is 0."""


class Graph:
    """A session on the CPU, one thread, activations as they are."""

    def __init__(self, path: Path) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry(AS_THEY_ARE, "0")
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = {entry.name: entry for entry in self.session.get_inputs()}
        self.names = [output.name for output in self.session.get_outputs()]

    @property
    def pads(self) -> bool:
        """Whether it has a mask."""
        return "attention_mask" in self.inputs

    def logits(self, ids: np.ndarray, steps: Sequence[int] | None = None) -> np.ndarray:
        """[T, vocab] of one sequence, fed in pieces of the given lengths through the cache."""
        cache, found, start = self._empty(1), [], 0
        for length in steps or (len(ids),):
            stop = start + length
            result = self._run(ids[None, start:stop], np.ones((1, stop), np.int64), cache)
            found.append(result["logits"][0])
            cache = {name: result[_present(name)] for name in cache}
            start = stop
        return np.concatenate(found)

    def padded(self, ids: np.ndarray, count: int) -> np.ndarray:
        """[T - count, vocab]: all but the last tokens, padded to T beside a row of T. Graphs that count positions from
        the ones of the mask (no position_ids) are padded on the right."""
        short, rows = len(ids) - count, np.stack([ids, ids])
        mask = np.ones_like(rows)
        real = slice(count, None) if "position_ids" in self.inputs else slice(short)
        mask[0] = 0
        mask[0, real] = 1
        rows[0] = 0
        rows[0, real] = ids[:short]
        return self._run(rows, mask, self._empty(2))["logits"][0, real]

    def _run(self, ids: np.ndarray, mask: np.ndarray, cache: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
        tokens = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        feed = {**{name: value for name, value in tokens.items() if name in self.inputs}, **cache}
        return dict(zip(self.names, self.session.run(self.names, feed), strict=True))

    def _empty(self, rows: int) -> dict[str, np.ndarray]:
        return {
            name: np.zeros((rows, entry.shape[1], 0, entry.shape[3] if isinstance(entry.shape[3], int) else 16),
                           np.float16 if "float16" in entry.type else np.float32)
            for name, entry in self.inputs.items() if "past_key_values" in name
        }


def run_onnx(path: Path, ids: np.ndarray, steps: Sequence[int] | None = None) -> np.ndarray:
    """Logits [T, vocab] of one sequence, fed in pieces of the given lengths through the cache."""
    return Graph(path).logits(ids, steps)


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
