"""A graph whose arithmetic is float32 throughout, whatever its own is: what its weights, as they are stored, compute.

Rounding activations, to int8 or to floats of two bytes, is the runtime's and not the plan's; how far it moves logits
depends on the model, and a fault of one percent hides behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import numpy_helper

_FLOAT = onnx.TensorProto.FLOAT
_COARSE = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_TYPES = ("to", "dtype", "output_dtype")
"""Attributes that name a type."""
_LEVEL = "accuracy_level"


def in_float32(model: Path) -> bytes:
    """The graph without its weights, which stay in their files and are widened where they are read; every MatMulNBits
    at accuracy level 0. For files that the safe loader has passed."""
    proto = onnx.load(model, load_external_data=False)
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type in _COARSE:
            value.type.tensor_type.elem_type = _FLOAT
    for graph in _graphs(proto.graph):
        _widen(graph)
    whole: bytes = proto.SerializeToString()
    return whole


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _widen(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == _LEVEL and node.op_type == "MatMulNBits":
                attribute.i = 0
            elif attribute.name in _TYPES and attribute.i in _COARSE:
                attribute.i = _FLOAT
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type in _COARSE:
                wide = numpy_helper.to_array(attribute.t).astype("float32")
                attribute.t.CopyFrom(numpy_helper.from_array(wide, attribute.t.name))
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type in _COARSE:
            wide, tensor.name = tensor.name, f"{tensor.name}/as_stored"
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [wide], f"{tensor.name}/Cast", to=_FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
