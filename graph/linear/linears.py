"""Linears of a block: y = x @ W (+ bias), W [in, out] whatever way round and by whatever operator a graph holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from foldrank.graph.linear.beside import result_of
from foldrank.graph.linear.marks import PART, SITE
from foldrank.graph.linear.matrices import Matrix, matrix_of
from foldrank.graph.linear.weights import Array, read, read_rows
from foldrank.sites import Site

WEIGHT_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

_ADDING = ("Add", "BiasGelu", "FastGelu")
"""Operators that add a vector to their input before whatever else they do."""

Place = tuple[ir.Node, int]
"""A node and the slot of one of its inputs."""


@dataclass(frozen=True)
class StoredMatrix:
    """W [in, out] as a MatMul or Gemm reads it: `place` (a Transpose may stand between), `transposed` where it is
    stored [out, in]."""

    place: Place
    transposed: bool

    @property
    def weight(self) -> ir.Value:
        """The stored matrix, an initializer."""
        return initializer_at(self.place)

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The stored matrix's data: W, or its transpose."""
        return tensor_at(self.place)

    @property
    def shape(self) -> tuple[int, int]:
        """(in, out)."""
        rows, columns = self.tensor.shape.numpy()
        return (columns, rows) if self.transposed else (rows, columns)

    def read(self) -> Array:
        """W [in, out], C order."""
        return np.ascontiguousarray(read(self.tensor).T) if self.transposed else read(self.tensor)


@dataclass(frozen=True)
class Linear(StoredMatrix):
    """y = x @ W (+ bias): the columns of W are the roles in storage order, `widths` columns each.

    `node` is the MatMul or Gemm. `interleaved`: the roles lie head by head, so each stands for a run as wide as it is,
    in storage order; only q, k and v together are something.
    """

    block: int
    roles: tuple[str, ...]
    node: ir.Node
    widths: tuple[int, ...]
    biases: tuple[Place, ...]
    """Where an initializer is added: the Gemm itself, the Add that follows, or an Add behind each part of a Split."""
    interleaved: bool = False

    @property
    def sites(self) -> tuple[Site, ...]:
        """Its single-role sites, in storage order."""
        return tuple(Site(self.block, (role,)) for role in self.roles)

    def reads_as(self, other: Linear) -> bool:
        """Whether both read one input: one value, or one value brought to one shape (for a Gemm) by each alone."""
        return alike(self.node.inputs[0], other.node.inputs[0])

    def columns(self, role: str) -> slice:
        """Columns of W that belong to a role."""
        start = sum(self.widths[: self.roles.index(role)])
        return slice(start, start + self.widths[self.roles.index(role)])


def read_columns(tensor: ir.TensorProtocol, transposed: bool, columns: slice) -> Array:
    """These columns of a W [in, columns] that is stored as it is or `transposed`; C order, in memory of their own."""
    if transposed:
        return np.ascontiguousarray(read_rows(tensor, columns.start, columns.stop).T)
    return np.ascontiguousarray(read(tensor)[:, columns])


@dataclass(frozen=True)
class Pair:
    """A low-rank pair in the graph: A [in, rank], and B [rank, out], whole or by columns."""

    sites: tuple[Site, ...]
    a: Matrix
    b: tuple[Matrix, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(in, out) of the weight it stands for."""
        return self.a.shape[0], sum(b.shape[1] for b in self.b)

    @property
    def rank(self) -> int:
        """Its rank."""
        return self.a.shape[1]


def initializer_at(place: Place) -> ir.Value:
    """The initializer a place reads."""
    value = place[0].inputs[place[1]]
    assert value is not None
    return value


def tensor_at(place: Place) -> ir.TensorProtocol:
    """Its data."""
    tensor = initializer_at(place).const_value
    assert tensor is not None
    return tensor


def stored_matrix(node: ir.Node) -> StoredMatrix | None:
    """The float matrix that a MatMul or Gemm reads; None for anything else.

    A Gemm must be x @ W + bias and no more: alpha and beta 1, x not transposed.
    """
    if node.domain or len(node.inputs) < 2:
        return None
    turned = False
    if node.op_type == "Gemm":
        if any(_number(node, name, default) != default for name, default in (("alpha", 1), ("beta", 1), ("transA", 0))):
            return None
        if len(node.inputs) > 2 and node.inputs[2] is not None and not is_vector(node.inputs[2]):
            return None
        turned = bool(_number(node, "transB", 0))
    elif node.op_type != "MatMul":
        return None
    value = node.inputs[1]
    place: Place = (node, 1)
    producer = value.producer() if value is not None else None
    if producer is not None and producer.op_type == "Transpose" and _swaps(producer):
        place, turned = (producer, 0), not turned
    value = place[0].inputs[place[1]]
    tensor = value.const_value if value is not None and value.is_initializer() else None
    if tensor is None or len(tensor.shape) != 2 or tensor.dtype not in WEIGHT_TYPES:
        return None
    return StoredMatrix(place, turned)


def stored_parts(node: ir.Node) -> list[Place]:
    """Places of what a linear that is no plain matrix is stored as: numbers, scales, zero points, and its bias."""
    places = [place for slot in range(1, len(node.inputs)) for place in _behind((node, slot))]
    bias = bias_of(node)
    return [*places, bias] if bias is not None and bias not in places else places


def _behind(place: Place) -> list[Place]:
    """The initializer a place reads, or those that a DequantizeLinear (or a change of layout) before it reads."""
    value = place[0].inputs[place[1]]
    if value is None or value.is_initializer():
        return [] if value is None else [place]
    producer = value.producer()
    if producer is None or producer.op_type not in ("DequantizeLinear", "Transpose", "Cast", "Reshape", "Identity"):
        return []
    return [inner for slot in range(len(producer.inputs)) for inner in _behind((producer, slot))]


def bias_of(node: ir.Node) -> Place | None:
    """A Gemm's third input, or what the node right behind a MatMul, and what stands beside it, adds."""
    if node.op_type == "Gemm":
        return (node, 2) if len(node.inputs) > 2 and is_vector(node.inputs[2]) else None
    return added_to(result_of(node))


def added_to(value: ir.Value) -> Place | None:
    """Where the only node that reads a value adds an initializer of one axis to it."""
    users = value.consumers()
    if len(users) != 1 or users[0].op_type not in _ADDING:
        return None
    return next(((users[0], slot) for slot, value in enumerate(users[0].inputs) if is_vector(value)), None)


def pairs_in(nodes: Sequence[ir.Node]) -> tuple[Pair, ...]:
    """Pairs a pass left here, told by its marks."""
    parts: dict[str, tuple[list[Matrix], list[Matrix]]] = {}
    for node in nodes:
        part, matrix = node.metadata_props.get(PART), matrix_of(node)
        if part in ("A", "B") and matrix is not None:
            parts.setdefault(node.metadata_props[SITE], ([], []))[part == "B"].append(matrix)
    return tuple(
        Pair(tuple(Site.parse(text) for text in site.split(",")), a[0], tuple(b))
        for site, (a, b) in parts.items() if a and b
    )


def is_vector(value: ir.Value | None) -> bool:
    """Whether a value is an initializer of one axis."""
    return value is not None and value.is_initializer() and value.shape is not None and len(value.shape) == 1


def alike(one: ir.Value | None, other: ir.Value | None) -> bool:
    """Whether both are one value, or one value brought to one shape (for a Gemm) by each alone."""
    return one is other or (_reshaped(one) is not None and _reshaped(one) == _reshaped(other))


def _swaps(node: ir.Node) -> bool:
    perm = node.attributes.get("perm")
    return perm is None or tuple(perm.as_ints()) == (1, 0)


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return float(attribute.value) if attribute is not None else default


def _reshaped(value: ir.Value | None) -> tuple[object, ...] | None:
    """What a Reshape reads and makes of it, where its shape is written into the graph."""
    producer = value.producer() if value is not None else None
    if producer is None or producer.op_type != "Reshape" or producer.inputs[1] is None:
        return None
    shape = ir.convenience.get_const_tensor(producer.inputs[1])
    zero = producer.attributes.get("allowzero")
    return None if shape is None else (
        id(producer.inputs[0]), tuple(shape.numpy().tolist()), zero.value if zero is not None else 0
    )
