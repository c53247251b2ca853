"""What every writer of graphs needs: nodes and weights as they come, and the common inputs and outputs."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from synthetic.decoders import Shape

ELEMENTS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


class Writer:
    """A graph being written, of one floating-point type."""

    def __init__(self, dtype: str) -> None:
        self.element = ELEMENTS[dtype]
        self.dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value.astype(self.dtype)), name))
        return name

    def node(self, op: str, name: str, inputs: list[str], outputs: list[str] | None = None, domain: str = "",
             **attributes: Any) -> str:
        outputs = outputs or [f"{name}/output_0"]
        self.nodes.append(helper.make_node(op, inputs, outputs, name, domain=domain, **attributes))
        return outputs[0]


def inputs(s: Shape, element: int) -> list[onnx.ValueInfoProto]:
    ids = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
           helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"])]
    return ids + _cache(s, element, "past_key_values", "past_sequence_length")


def outputs(s: Shape, element: int) -> list[onnx.ValueInfoProto]:
    logits = helper.make_tensor_value_info("logits", element, ["batch_size", "sequence_length", s.vocab])
    return [logits, *_cache(s, element, "present", "total_sequence_length")]


def _cache(s: Shape, element: int, prefix: str, length: str) -> list[onnx.ValueInfoProto]:
    dims = ["batch_size", s.kv_heads, length, "kv_cache_dim"]
    return [helper.make_tensor_value_info(f"{prefix}.{i}.{kind}", element, dims)
            for kind in ("key", "value") for i in range(s.blocks)]
