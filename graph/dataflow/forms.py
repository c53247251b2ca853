"""The form of a block: its nodes in an order that its outputs alone decide, each with what it reads, names left out.

Two blocks of equal form compute the same function of what enters them, their weights and their cache: node by node
they are the same operator with the same attributes, reading corresponding values. Places of one correspond to places
of the other. An axis of what enters is the same number for all blocks, whoever asks for it: block 0 may read what the
embedding's side of the graph has asked already.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from foldrank.graph.linear.norms import NORMS

Code = tuple[Any, ...]
_SMALL = 64
"""Elements up to which a shared or integer initializer is a constant, known by its content rather than its name."""


@dataclass(frozen=True)
class Surroundings:
    """What a block reads and makes. `weights`: identities of the initializers whose content is the block's own."""

    nodes: frozenset[ir.Node]
    entering: tuple[ir.Value, ...]
    leaving: tuple[ir.Value, ...]
    past: tuple[ir.Value, ...]
    present: tuple[ir.Value, ...]


def in_order(block: Surroundings) -> tuple[ir.Node, ...]:
    """The block's nodes, each after those it reads, walking back from its outputs; none that ask for an axis of what
    enters."""
    entering = {id(value) for value in block.entering}
    order: dict[ir.Node, None] = {}
    pending: list[tuple[ir.Node, bool]] = [
        (node, False) for value in reversed((*block.present, *block.leaving))
        if (node := value.producer()) is not None and node in block.nodes
    ]
    while pending:
        node, ready = pending.pop()
        if node in order:
            continue
        if ready:
            order[node] = None
            continue
        pending.append((node, True))
        makers = (v.producer() for v in reversed(node.inputs) if v is not None and _axis(v, entering) is None)
        pending.extend((maker, False) for maker in makers if maker in block.nodes and maker is not None)
    return tuple(order)


def form(block: Surroundings, order: Sequence[ir.Node], weights: set[int]) -> tuple[Code, ...]:
    """One code for each node, and one for what leaves."""
    codes = _Codes(block, order, weights)
    leaving = tuple(codes.value(v) for v in (*block.present, *block.leaving))
    return (*(codes.node(node) for node in order), ("leaves", "", leaving, ()))


def is_small_constant(value: ir.Value) -> bool:
    """Whether an initializer is a number or a few integers that an exporter wrote out of the way."""
    tensor = value.const_value
    if not value.is_initializer() or tensor is None or tensor.size > _SMALL:
        return False
    return tensor.size == 1 or not tensor.dtype.is_floating_point()


def _axis(value: ir.Value, entering: Container[int]) -> tuple[ir.Value, ir.Node] | None:
    """What enters and the constant that picks an axis of it, where a value is one: Gather(Shape(x), constant)."""
    node = value.producer()
    if node is None or node.op_type != "Gather":
        return None
    shape, index = (v.producer() if v is not None else None for v in node.inputs)
    if shape is None or shape.op_type != "Shape" or shape.attributes or index is None or index.op_type != "Constant":
        return None
    x = shape.inputs[0]
    return (x, index) if x is not None and id(x) in entering else None


class _Codes:
    def __init__(self, block: Surroundings, order: Sequence[ir.Node], weights: set[int]) -> None:
        self._block, self._weights = block, weights
        self._index = {node: i for i, node in enumerate(order)}
        self._entering = {id(v): i for i, v in enumerate(block.entering)}
        self._past = {id(v): i for i, v in enumerate(block.past)}

    def node(self, node: ir.Node) -> Code:
        """(domain, operator, attributes, what it reads). A norm whose skip input only enters is the norm of the sum:
        block 0 has no sum to norm yet."""
        inputs = tuple(self.value(v) for v in node.inputs)
        attributes = tuple(sorted((name, _plain(a)) for name, a in node.attributes.items()))
        if node.op_type not in NORMS:
            return (node.domain, node.op_type, attributes, inputs)
        epsilon = tuple((name, text) for name, text in attributes if name == "epsilon")
        read = (("enters",), *inputs[2:]) if self._norms_entering_sum(node) else inputs
        return ("norm", node.op_type.removeprefix("Skip"), epsilon, tuple(c for c in read if c is not None))

    def value(self, value: ir.Value | None) -> Code | None:
        """What a value is to this block."""
        if value is None:
            return None
        if id(value) in self._entering:
            return ("enters",) if len(self._entering) == 1 else ("enters", self._entering[id(value)])
        if id(value) in self._past:
            return ("past", self._past[id(value)])
        if (axis := _axis(value, self._entering)) is not None:
            return ("axis", self.value(axis[0]), *_content(axis[1]))
        producer = value.producer()
        if producer is not None and producer in self._index:
            if producer.op_type == "Constant":
                return ("constant", *_content(producer))
            if value.index() == 3 and self._norms_entering_sum(producer):
                return ("enters",)
            return ("node", self._index[producer], value.index())
        if producer is not None and producer.op_type == "Constant":
            return ("constant", *_content(producer))
        if id(value) in self._weights and value.const_value is not None:
            return ("own", str(value.const_value.dtype), tuple(value.const_value.shape))
        if is_small_constant(value):
            assert value.const_value is not None
            return ("constant", _tensor_text(value.const_value))
        return ("shared", value.name)

    def _norms_entering_sum(self, node: ir.Node) -> bool:
        return node.op_type.startswith("Skip") and node.op_type in NORMS and len(self._entering) == 2 and all(
            id(v) in self._entering for v in node.inputs[:2]
        )


def _content(node: ir.Node) -> Code:
    return tuple(_plain(attribute) for attribute in node.attributes.values())


def _plain(attribute: ir.Attr) -> str:
    if attribute.type == ir.AttributeType.TENSOR:
        return _tensor_text(attribute.value)  # as_tensor() asks it for every member of a protocol: a tenth of a proof
    return repr(attribute.value)


def _tensor_text(tensor: ir.TensorProtocol) -> str:
    return f"{tensor.dtype} {list(tensor.shape)} {tensor.numpy().tobytes().hex()}"
