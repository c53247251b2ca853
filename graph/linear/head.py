"""The matrix that makes the logits."""

from __future__ import annotations

import onnx_ir as ir

LINEAR = frozenset({"MatMul", "Gemm", "FusedMatMul", "MatMulNBits"})


def head_of(graph: ir.Graph) -> ir.Node | None:
    """The last linear map before the logits: soft-capping and casts may stand between."""
    node = next((value.producer() for value in graph.outputs if value.name == "logits"), None)
    for _ in range(8):
        if node is None or node.op_type in LINEAR:
            return node
        node = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return None
