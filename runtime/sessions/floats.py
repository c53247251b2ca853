"""A graph whose products take activations as they are, whatever its `accuracy_level` says: what its weights compute.

Rounding activations to int8 is the runtime's, not the plan's, and how far it moves logits depends on the model. The
weights stay in their file beside the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_LEVEL = "accuracy_level"


def floats_settings(model: Path) -> Mapping[str, str]:
    """Session config entries for `without_rounding(model)`: where its weights lie, and the level of products that ONNX
    Runtime itself makes of DequantizeLinear."""
    return {"session.model_external_initializers_file_folder_path": str(model.parent),
            "session.qdq_matmulnbits_accuracy_level": "0"}


def without_rounding(model: Path) -> bytes:
    """The graph, without its weights, with every MatMulNBits at accuracy level 0."""
    import onnx

    proto = onnx.load(model, load_external_data=False)
    for node in proto.graph.node:
        for attribute in node.attribute if node.op_type == "MatMulNBits" else ():
            if attribute.name == _LEVEL:
                attribute.i = 0
    graph: bytes = proto.SerializeToString()
    return graph
