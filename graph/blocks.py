"""One block of a decoder: linears by role, low-rank pairs already in place, norm gains, and what kind it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx_ir as ir

from foldrank.graph.cache import KVPair
from foldrank.graph.dialects import Dialect
from foldrank.graph.marks import PART, SITE
from foldrank.sites import Site

WEIGHT_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_NORMS = {"SimplifiedLayerNormalization": 1, "RMSNormalization": 1, "LayerNormalization": 1,
          "SkipSimplifiedLayerNormalization": 2, "SkipLayerNormalization": 2}
"""Norm operators and the input slot of their gain."""


@dataclass(frozen=True)
class Linear:
    """y = x @ W (+ bias): W [in, out], its columns the roles in storage order, `widths` columns each."""

    block: int
    roles: tuple[str, ...]
    node: ir.Node
    widths: tuple[int, ...]
    bias: tuple[ir.Node, int] | None
    """The Add that follows and the slot of its initializer [out]."""

    @property
    def weight(self) -> ir.Value:
        """W, an initializer [in, out]."""
        value = self.node.inputs[1]
        assert value is not None
        return value

    @property
    def tensor(self) -> ir.TensorProtocol:
        """W's data."""
        tensor = self.weight.const_value
        assert tensor is not None
        return tensor

    @property
    def sites(self) -> tuple[Site, ...]:
        """Its single-role sites, in storage order."""
        return tuple(Site(self.block, (role,)) for role in self.roles)

    def columns(self, role: str) -> slice:
        """Columns of W that belong to a role."""
        start = sum(self.widths[: self.roles.index(role)])
        return slice(start, start + self.widths[self.roles.index(role)])


@dataclass(frozen=True)
class Pair:
    """A low-rank pair in the graph: A [in, rank], and B [rank, out], whole or by columns."""

    sites: tuple[Site, ...]
    a: ir.TensorProtocol
    b: tuple[ir.TensorProtocol, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(in, out) of the weight it stands for."""
        return self.a.shape.numpy()[0], sum(b.shape.numpy()[1] for b in self.b)

    @property
    def rank(self) -> int:
        """Its rank."""
        return self.a.shape.numpy()[1]


@dataclass(frozen=True)
class Block:
    """One decoder layer. `opaque` names linears whose weights are not plain matrices (quantised, for one)."""

    number: int
    nodes: tuple[ir.Node, ...]
    linears: tuple[Linear, ...]
    pairs: tuple[Pair, ...]
    norms: tuple[tuple[ir.Node, int], ...]
    kv: KVPair
    opaque: tuple[str, ...]

    @cached_property
    def by_role(self) -> dict[str, Linear]:
        """Dense linears by each of their roles."""
        return {role: linear for linear in self.linears for role in linear.roles}

    @property
    def kind(self) -> tuple[Any, ...]:
        """What must be equal for blocks to merge: operators, attributes, shared inputs, shapes of weights."""
        own = {id(v) for v in self.own_initializers} | self._weights
        shapes = tuple(
            (linear.roles, tuple(linear.tensor.shape), linear.tensor.dtype, linear.bias is not None)
            for linear in self.linears
        )
        return (tuple(_signature(node, own) for node in self.nodes), shapes, len(self.norms))

    @property
    def own_initializers(self) -> list[ir.Value]:
        """Initializers that only this block reads."""
        members = set(self.nodes)
        return [v for node in self.nodes for v in node.inputs
                if v is not None and v.is_initializer() and all(user in members for user in v.consumers())]

    @property
    def unknown(self) -> list[str]:
        """Its own initializers that are no weight, bias or norm gain: merging would not know what to do with them."""
        return [v.name or "" for v in self.own_initializers if id(v) not in self._weights]

    @cached_property
    def _weights(self) -> set[int]:
        """Identities of its weights, biases and norm gains, shared with others or not."""
        places = [(linear.node, 1) for linear in self.linears] + list(self.norms)
        places += [linear.bias for linear in self.linears if linear.bias is not None]
        return {id(node.inputs[slot]) for node, slot in places}


def read_block(
    number: int, nodes: list[ir.Node], kv: KVPair, geometry: tuple[int, int, int], dialect: Dialect
) -> Block:
    """The block with this number, from its nodes in graph order. `geometry`: (heads, KV heads, head size)."""
    found = [(node, roles) for node in nodes if (roles := _roles(node, dialect))]
    dense = [(node, roles) for node, roles in found if _is_dense(node)]
    return Block(
        number=number, nodes=tuple(nodes),
        linears=tuple(
            Linear(number, roles, node, _widths(node, roles, geometry), _bias(node)) for node, roles in dense
        ),
        pairs=_pairs(nodes),
        norms=tuple((node, slot) for node in nodes if (slot := _gain_slot(node)) is not None), kv=kv,
        opaque=tuple(f"{node.name} ({node.op_type})" for node, _ in found if not _is_dense(node)),
    )


def _roles(node: ir.Node, dialect: Dialect) -> tuple[str, ...] | None:
    if node.metadata_props.get(PART) == "dense":
        return tuple(Site.parse(text).role for text in node.metadata_props[SITE].split(","))
    return None if PART in node.metadata_props else dialect.roles_of(node)


def _is_dense(node: ir.Node) -> bool:
    weight = node.inputs[1] if node.op_type == "MatMul" and len(node.inputs) == 2 else None
    tensor = weight.const_value if weight is not None and weight.is_initializer() else None
    return tensor is not None and len(tensor.shape) == 2 and tensor.dtype in WEIGHT_TYPES


def _widths(node: ir.Node, roles: tuple[str, ...], geometry: tuple[int, int, int]) -> tuple[int, ...]:
    """Columns of each role. Heads tell for q, k, v; gate and up halve; the rest is alone."""
    heads, kv_heads, size = geometry
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    columns = weight.const_value.shape.numpy()[1]
    if len(roles) == 1:
        return (columns,)
    if set(roles) <= {"q", "k", "v"}:
        return tuple((heads if role == "q" else kv_heads) * size for role in roles)
    return (columns // len(roles),) * len(roles)


def _bias(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add right behind a MatMul that adds an initializer of one axis."""
    users = node.outputs[0].consumers()
    if len(users) != 1 or users[0].op_type != "Add":
        return None
    for slot, value in enumerate(users[0].inputs):
        if value is not None and value.is_initializer() and value.shape is not None and len(value.shape) == 1:
            return users[0], slot
    return None


def _gain_slot(node: ir.Node) -> int | None:
    slot = _NORMS.get(node.op_type)
    value = node.inputs[slot] if slot is not None and len(node.inputs) > slot else None
    return slot if value is not None and value.is_initializer() else None


def _pairs(nodes: list[ir.Node]) -> tuple[Pair, ...]:
    """Pairs a pass left here, told by its marks."""
    parts: dict[str, tuple[list[ir.TensorProtocol], list[ir.TensorProtocol]]] = {}
    for node in nodes:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        part, tensor = node.metadata_props.get(PART), weight.const_value if weight is not None else None
        if part in ("A", "B") and tensor is not None and len(tensor.shape) == 2:
            parts.setdefault(node.metadata_props[SITE], ([], []))[part == "B"].append(tensor)
    return tuple(
        Pair(tuple(Site.parse(text) for text in site.split(",")), a[0], tuple(b))
        for site, (a, b) in parts.items() if a and b
    )


def _signature(node: ir.Node, own: set[int]) -> tuple[Any, ...]:
    """A node without its names. A norm with and without a skip input is one kind: block 0 has no sum to norm yet."""
    if node.op_type in _NORMS:
        epsilon = node.attributes.get("epsilon")
        return ("norm", node.op_type.removeprefix("Skip"), epsilon.value if epsilon is not None else None)
    attributes = tuple(sorted((name, _plain(a)) for name, a in node.attributes.items()))
    shared = tuple(
        v.name if v is not None and v.is_initializer() and id(v) not in own else None for v in node.inputs
    )
    return (node.domain, node.op_type, attributes, shared)


def _plain(attribute: ir.Attr) -> str:
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.as_tensor().numpy().tobytes().hex()
    return repr(attribute.value)


