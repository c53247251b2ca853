"""In what precision a graph computes, read from the graph alone: never from what a file beside it claims."""

from __future__ import annotations

import onnx_ir as ir

from foldrank.graph.linear.matrices import dequantized_weight
from foldrank.graph.linear.norms import NORMS
from foldrank.tolerances import INT8

_ROUNDS_ACTIVATIONS = 4
"""MatMulNBits' accuracy_level at which activations are rounded to int8."""
_COARSE = ((ir.DataType.BFLOAT16, "bf16"), (ir.DataType.FLOAT16, "fp16"))


def floats_of(model: ir.Model) -> str:
    """The coarsest floats among weights, inputs and outputs: bf16, fp16 or fp32."""
    graph = model.graph
    values = (*graph.initializers.values(), *graph.inputs, *graph.outputs)
    held = {value.dtype or (value.const_value and value.const_value.dtype) for value in values}
    return next((name for kind, name in _COARSE if kind in held), "fp32")


def precision_of(model: ir.Model) -> str:
    """The floats, or int8 where a product rounds activations to that."""
    return INT8 if any(rounds_activations(node) for node in model.graph) else floats_of(model)


def rounds_activations(node: ir.Node) -> bool:
    """Whether a runtime computes the product with activations rounded to int8: where accuracy_level says so, and where
    ONNX Runtime makes MatMulNBits of a DequantizeLinear itself, at that level by default."""
    if node.op_type == "MatMulNBits":
        level = node.attributes.get("accuracy_level")
        return level is not None and level.as_int() == _ROUNDS_ACTIVATIONS
    return (found := dequantized_weight(node)) is not None and found.blocked


def epsilons(model: ir.Model) -> set[float]:
    """What norms add to the variance, where it is an attribute of their operators."""
    return {node.attributes["epsilon"].as_float() for node in model.graph
            if node.op_type in NORMS and "epsilon" in node.attributes}


def wide_norms(model: ir.Model) -> bool:
    """Whether norms read gains in float32, whatever floats there are besides."""
    gains = (node.inputs[NORMS[node.op_type][0]] for node in model.graph if node.op_type in NORMS)
    return any(gain is not None and gain.const_value is not None and gain.const_value.dtype == ir.DataType.FLOAT
               for gain in gains)


def rotary_rows(model: ir.Model) -> int | None:
    """Positions that tables of RoPE's cosines and sines have, the fewest; None where the graph computes them."""
    slots = {"GroupQueryAttention": (7, 8), "RotaryEmbedding": (2, 3)}
    tables = (node.inputs[slot] for node in model.graph for slot in slots.get(node.op_type, ())
              if slot < len(node.inputs))
    rows = [int(table.const_value.shape.numpy()[0]) for table in tables
            if table is not None and table.const_value is not None]
    return min(rows, default=None)
