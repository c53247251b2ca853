"""Arithmetic in bfloat16 inside a graph of another dtype, written so that ONNX Runtime has kernels for it on the CPU:

    a, b -> Mul                 all bfloat16
    a, b -> Cast -> Mul -> Cast     fp32 between the casts

Both give the same numbers: PyTorch too computes such a product in fp32 and rounds it once. Knows graphs in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

_ARITHMETIC = ("Add", "Div", "Mul", "Sub")
_MOVING = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""What ONNX Runtime's CPU kernels do in any dtype."""


def compute_in_fp32(graph: ir.Graph) -> None:
    """Rewrite sums, differences, products and quotients of bfloat16 values."""
    for node in list(_in_bfloat16(graph)):
        if node.op_type in _ARITHMETIC:
            _between_casts(graph, node)


def without_kernel(graph: ir.Graph) -> ir.Node | None:
    """The first node that reads bfloat16 and has no kernel for it on the CPU."""
    return next((node for node in _in_bfloat16(graph) if node.op_type not in _MOVING), None)


def _in_bfloat16(graph: ir.Graph) -> Iterator[ir.Node]:
    """Nodes that read a bfloat16 value, in order. Types are followed from constants and casts: a file may not tell."""
    found = {value for value in graph.initializers.values() if value.dtype == ir.DataType.BFLOAT16}
    for node in graph:
        read = any(value in found for value in node.inputs if value is not None)
        if read:
            yield node
        made = _target(node) == ir.DataType.BFLOAT16 if node.op_type == "Cast" else read and node.op_type != "Shape"
        if made:
            found.update(node.outputs)


def _target(node: ir.Node) -> int:
    return node.attributes["to"].as_int()


def _between_casts(graph: ir.Graph, node: ir.Node) -> None:
    """`node` itself in fp32, its inputs and its output cast."""
    for slot, value in enumerate(node.inputs):
        assert value is not None
        wide = _cast(value, ir.DataType.FLOAT, f"{node.name}.in.{slot}")
        graph.insert_before(node, wide)
        node.replace_input_with(slot, wide.outputs[0])
    exact = node.outputs[0]
    rounded = _cast(exact, ir.DataType.BFLOAT16, f"{node.name}.rounded")
    exact.replace_all_uses_with(rounded.outputs[0])
    rounded.replace_input_with(0, exact)
    rounded.outputs[0].shape, exact.dtype = exact.shape, ir.DataType.FLOAT
    graph.insert_after(node, rounded)


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    made = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype))
    return ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))], outputs=[made], name=name)
