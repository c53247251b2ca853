"""Small ONNX graphs that foldrank itself runs: to pick tokens, to probe a provider, to measure a memory. Serialized.

onnx is imported where a graph is made, so that nothing else needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_OPSET, _IR = 17, 10


def picking(logits: str) -> bytes:
    """logits [B, T, V] (`float`, `float16` or `bfloat16`) to `tokens` [B, 1]: the likeliest at the last position."""
    import numpy as np
    from onnx import TensorProto, helper

    numbers = {"start": -1, "end": np.iinfo(np.int64).max, "axis": 1}
    nodes = [
        helper.make_node("Slice", ["logits", "start", "end", "axis"], ["last"]),
        helper.make_node("Cast", ["last"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["wide"], ["tokens"], axis=-1, keepdims=0),
    ]
    kind = {"float": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[logits]
    return _graph(
        nodes, helper.make_tensor_value_info("logits", kind, ["B", "T", "V"]),
        helper.make_tensor_value_info("tokens", TensorProto.INT64, ["B", 1]),
        [helper.make_tensor(name, TensorProto.INT64, [1], [number]) for name, number in numbers.items()],
    )


def chain(operators: Sequence[str]) -> bytes:
    """Elementwise operators one after the other, x [N] to y [N], float32."""
    from onnx import TensorProto, helper

    names = ["x", *(f"t{i}" for i in range(len(operators) - 1)), "y"]
    nodes = [helper.make_node(op, [names[i]], [names[i + 1]]) for i, op in enumerate(operators)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "xy")
    return _graph(nodes, x, y)


def square() -> bytes:
    """y = x @ x for x [2, 2]: a node no provider lacks, and none can fold away."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xy")
    return _graph([helper.make_node("MatMul", ["x", "x"], ["y"])], x, y)


def _graph(nodes: Sequence[Any], x: Any, y: Any, initializers: Sequence[Any] = ()) -> bytes:
    from onnx import helper

    graph = helper.make_graph(nodes, "foldrank", [x], [y], list(initializers))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    return bytes(made.SerializeToString())
