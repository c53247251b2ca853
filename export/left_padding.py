"""Rows padded on the left for a graph of GroupQueryAttention, which counts a row's ones and takes them to stand first.

Each row's tokens are rolled to the front before the first block and its hidden states rolled back before the head, as
far as the row's mask begins with zeros. A single token, a row padded on the right and one not padded stay where they
are; caches hold a row's own tokens first either way (ONNX Runtime, ContribOperators.md, GroupQueryAttention,
`seqlens_k`). Axes: B rows, T new tokens, S tokens of the mask.
"""

from __future__ import annotations

from typing import Any

from onnx import TensorProto, helper

_AT = "/model/left_padding/"
_ROLLED = ("input_ids", "position_ids")
_LINEAR = ("MatMul", "Gemm", "FusedMatMul", "MatMulNBits")
_OPERATOR = "GroupQueryAttention"
_OPSET = 15
"""From it Shape takes a part of the shape."""


def take_left_padding(graph: Any, opset: int) -> bool:
    """Add the rolls to a GraphProto, exact and with no weight; whether it was one that needs and allows them."""
    inputs = {port.name for port in graph.input}
    head = _head(graph)
    if not {"input_ids", "attention_mask"} <= inputs or head is None or opset < _OPSET:
        return False
    if all(node.op_type != _OPERATOR for node in graph.node):
        return False
    rolled = [name for name in _ROLLED if name in inputs]
    for node in graph.node:
        if node.op_type != "Shape":
            for slot, name in enumerate(node.input):
                if name in rolled:
                    node.input[slot] = f"{_AT}{name}"
    hidden, head.input[0] = head.input[0], f"{_AT}hidden_states"
    place = next(i for i, node in enumerate(graph.node) if head.output[0] in node.output)
    nodes = [*_indices(), *(_node("GatherElements", [name, "front"], name, axis=1) for name in rolled),
             *graph.node[:place], _node("GatherND", [hidden, "back"], "hidden_states", batch_dims=1),
             *graph.node[place:]]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(helper.make_tensor(f"{_AT}{name}", TensorProto.INT64, shape, values)
                             for name, shape, values in _CONSTANTS)
    return True


_CONSTANTS = (("zero", (), [0]), ("one", (), [1]), ("axis_1", (1,), [1]), ("axis_2", (1,), [2]),
              ("end", (1,), [2**63 - 1]))


def _indices() -> list[Any]:
    """Nodes that make `front` [B, T], from where a row's new tokens are taken, and `back` [B, T, 1], the way back."""
    return [
        _node("Shape", ["input_ids"], "tokens", start=1, end=2),
        _node("Squeeze", ["tokens"], "count"),
        _node("Neg", ["tokens"], "start"),
        _node("Slice", ["attention_mask", "start", "end", "axis_1"], "new_mask"),
        _node("ArgMax", ["new_mask"], "shift", axis=1, keepdims=1),  # zeros before the first one; no one: 0
        _node("Range", ["zero", "count", "one"], "places"),
        _node("Add", ["places", "shift"], "after"),
        _node("Mod", ["after", "count"], "front"),
        _node("Sub", ["places", "shift"], "before"),
        _node("Mod", ["before", "count"], "places_back"),
        _node("Unsqueeze", ["places_back", "axis_2"], "back"),
    ]


_OWN = frozenset(name for name, _, _ in _CONSTANTS) | {
    "tokens", "count", "start", "new_mask", "shift", "places", "after", "front", "before", "places_back", "back"}


def _node(operator: str, inputs: list[str], output: str, **attributes: int) -> Any:
    named = [f"{_AT}{name}" if name in _OWN else name for name in inputs]
    return helper.make_node(operator, named, [f"{_AT}{output}"], name=f"{_AT}{output}/{operator}", **attributes)


def _head(graph: Any) -> Any:
    """The linear map that makes the logits, or None."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get("logits")
    while node is not None and node.op_type not in _LINEAR:
        node = makers.get(node.input[0]) if node.input else None
    return node
