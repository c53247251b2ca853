"""A vector added to what a linear gives: into the bias that is there, into a Gemm, or by an Add behind the product."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir

from foldrank.digests import cast
from foldrank.graph.linear.linears import tensor_at
from foldrank.graph.linear.marks import BLOCK, MADE_BY
from foldrank.graph.linear.weights import Array, add_initializer, lazily, read, set_initializer
from foldrank.graph.view.decoder import Linear


def add_to_result(graph: ir.Graph, linear: Linear, bias: Callable[[], Array], made_by: str) -> None:
    """Add a float32 vector, one number for each column of the linear, read when the graph is written. A bias that is
    there must be whole (`whole`)."""
    dtype, columns, start = linear.tensor.dtype, linear.shape[1], 0
    for place in linear.biases:
        old = tensor_at(place)
        part = slice(start, start + old.size)
        set_initializer(graph, *place, lazily(partial(_sum, old, bias, part), dtype, old.shape.numpy()))
        start += old.size
    if linear.biases:
        return
    name = f"{str(linear.weight.name).removesuffix('.weight')}.bias"
    value = add_initializer(graph, name, lazily(lambda: cast(bias(), dtype.numpy()), dtype, (columns,)))
    if linear.node.op_type == "Gemm":
        linear.node.resize_inputs(3)
        linear.node.replace_input_with(2, value)
        return
    result = linear.node.outputs[0]
    name = f"{linear.node.name or result.name}/bias"
    marks = {MADE_BY: made_by, BLOCK: str(linear.block)}
    node = ir.Node("", "Add", [result, value], name=name, metadata_props=marks)
    node.outputs[0].name = f"{name}/output_0"
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(dtype), result.shape
    result.replace_all_uses_with(node.outputs[0])
    node.replace_input_with(0, result)
    graph.insert_after(linear.node, node)


def whole(linear: Linear) -> bool:
    """Whether the bias that is there is of all columns, in one or part by part."""
    sizes = [tensor_at(place).size for place in linear.biases]
    return sizes in ([], [linear.shape[1]], list(linear.widths))


def _sum(old: ir.TensorProtocol, bias: Callable[[], Array], part: slice) -> Array:
    """In float32, rounded once."""
    stored = read(old)
    return cast(stored.astype(np.float32) + bias()[part], stored.dtype)
