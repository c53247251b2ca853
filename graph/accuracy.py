"""A graph whose products take activations as they are, whatever its `accuracy_level` says: what its weights compute.

Rounding activations to int8 is the runtime's, not the plan's, and how far it moves logits depends on the model.
"""

from __future__ import annotations

from pathlib import Path

import onnx

_LEVEL = "accuracy_level"


def without_rounding(model: Path) -> bytes:
    """The graph with every MatMulNBits at accuracy level 0, and without its weights, which stay in their files. For
    files that the safe loader has passed."""
    proto = onnx.load(model, load_external_data=False)
    for node in proto.graph.node:
        for attribute in node.attribute if node.op_type == "MatMulNBits" else ():
            if attribute.name == _LEVEL:
                attribute.i = 0
    graph: bytes = proto.SerializeToString()
    return graph
