"""Parameters of norms: the gain and bias of a norm operator, or the gain of a norm that an exporter took apart.

Taken apart, x / sqrt(mean(x^2) + epsilon) is a Mul or Div whose second factor goes back to a ReduceMean, and the gain
is what multiplies it, perhaps after a cast or after 1 was added (Gemma).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from foldrank.graph.linear.linears import Place

NORMS = {"SimplifiedLayerNormalization": (1,), "RMSNormalization": (1,), "LayerNormalization": (1, 2),
         "SkipSimplifiedLayerNormalization": (2,), "SkipLayerNormalization": (2, 3)}
"""Norm operators and the input slots of their parameters."""

_TO_MEAN = {"Sqrt", "Reciprocal", "Div", "Pow", "Add", "Cast"}
_MAX_STEPS = 8


def norm_parameters(nodes: Iterable[ir.Node]) -> Iterator[Place]:
    """Every place where one of the nodes reads a norm's parameter."""
    for node in nodes:
        if node.op_type in NORMS:
            yield from ((node, slot) for slot in NORMS[node.op_type] if _is_initializer(node, slot))
        elif node.op_type in ("Mul", "Add", "Cast"):
            yield from (
                (node, slot) for slot, value in enumerate(node.inputs)
                if _is_initializer(node, slot) and value is not None and value.shape is not None
                and len(value.shape) == 1 and value.dtype is not None and value.dtype.is_floating_point()
                and _scales_norm(node, slot)
            )


def _is_initializer(node: ir.Node, slot: int) -> bool:
    value = node.inputs[slot] if slot < len(node.inputs) else None
    return value is not None and value.is_initializer()


def _scales_norm(node: ir.Node, slot: int) -> bool:
    """Whether input `slot`, through casts and added constants, multiplies something normed."""
    for _ in range(3):
        if node.op_type == "Mul":
            return _is_normed(node.inputs[1 - slot])
        uses = list(node.outputs[0].uses())
        if node.op_type not in ("Add", "Cast") or len(uses) != 1:
            return False
        if node.op_type == "Add" and not is_constant(node.inputs[1 - slot]):
            return False
        node, slot = uses[0].node, uses[0].idx
    return False


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is a number written into the graph."""
    if value is None:
        return False
    producer = value.producer()
    return value.is_initializer() if producer is None else producer.op_type == "Constant"


def _is_normed(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    while node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type in ("Mul", "Div") and any(_from_mean(v, _MAX_STEPS) for v in node.inputs)


def _from_mean(value: ir.Value | None, steps: int) -> bool:
    node = value.producer() if value is not None else None
    if node is None or not steps:
        return False
    if node.op_type == "ReduceMean":
        return True
    return node.op_type in _TO_MEAN and any(_from_mean(v, steps - 1) for v in node.inputs)
