"""What tells nodes of a transformers module apart, whatever exporter wrote them. Which linear map a module is:
`foldrank.model.modules`.
"""

from __future__ import annotations

import re

import onnx_ir as ir

ATTENTION_AND_UP = ("q", "k", "v", "up")
"""What reads the only norm of a block with parallel branches, in one weight."""

_EXPERTS = re.compile(r"(?:^|[/.])(?:experts|block_sparse_moe)(?:[/.']|$)")
SCOPES = ("pkg.torch.onnx.name_scopes", "namespace")
"""Metadata in which torch.onnx.export says what modules a node was traced in."""
_MIXING = frozenset({"MoE", "QMoE"})

LINEAR_OPERATORS = frozenset({
    "MatMul", "Gemm", "FusedMatMul", "MatMulNBits", "MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul",
    "DynamicQuantizeMatMul", "MatMulFpQ4", "MatMulBnb4",
})
"""Operators that may apply such a module; which of them have a plain matrix is seen elsewhere."""


def mixes_experts(node: ir.Node) -> bool:
    """Whether a node is part of a mixture of experts, by its operator, name or scopes."""
    return node.op_type in _MIXING or any(
        _EXPERTS.search(text) for text in (node.name or "", *(node.metadata_props.get(key, "") for key in SCOPES))
    )
