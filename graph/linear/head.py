"""The matrix that makes the logits, and the table of words."""

from __future__ import annotations

import onnx_ir as ir

LINEAR = frozenset({"MatMul", "Gemm", "FusedMatMul", "MatMulNBits"})
LOOKUP = frozenset({"Gather", "GatherBlockQuantized"})
_MOVING = frozenset({"Transpose", "Cast", "Reshape", "GatherElements", "DequantizeLinear"})


def head_of(graph: ir.Graph) -> ir.Node | None:
    """The last linear map before the logits: soft-capping and casts may stand between."""
    node = next((value.producer() for value in graph.outputs if value.name == "logits"), None)
    for _ in range(8):
        if node is None or node.op_type in LINEAR:
            return node
        node = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return None


def lookups(graph: ir.Graph) -> list[ir.Node]:
    """What reads rows of a table by the tokens given: one node, unless a model has several tables. Of a table in few
    bits that standard operators read, that of its numbers."""
    ids = {value for value in graph.inputs if value.name == "input_ids"}
    return [node for node in graph
            if node.op_type in LOOKUP and root(node.inputs[1]) in ids and not _of_scales(node)]


def _of_scales(node: ir.Node) -> bool:
    """Whether it gathers scales or zero points of a table."""
    uses = list(node.outputs[0].uses())
    return bool(uses) and all(use.node.op_type == "DequantizeLinear" and use.idx > 0 for use in uses)


def root(value: ir.Value | None) -> ir.Value | None:
    """The value behind a Transpose, Cast or Reshape, numbers before they are dequantised, and tokens before they were
    rolled."""
    producer = value.producer() if value is not None else None
    moved = producer is not None and producer.op_type in _MOVING
    return producer.inputs[0] if producer is not None and moved else value
