"""Put several matrices in the place of one MatMul or Gemm: pieces of its columns, computed apart, then joined.

A bias that follows stays where it is, behind the join; a Gemm's own becomes an Add there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TypeVar

import onnx_ir as ir

from foldrank.graph.linear.linears import Place, initializer_at, read_columns, tensor_at
from foldrank.graph.linear.marks import BLOCK, COLUMNS, MADE_BY, PART, SITE
from foldrank.graph.linear.weights import add_initializer, lazily, read_rows
from foldrank.graph.view.decoder import Linear
from foldrank.sites import Site

T = TypeVar("T")


@dataclass(frozen=True)
class DensePiece:
    """Columns that stay as they are: W [in, out of the roles]."""

    sites: tuple[Site, ...]
    weight: ir.TensorProtocol

    @classmethod
    def of(cls, linear: Linear, roles: Sequence[str]) -> DensePiece:
        """The columns of these neighbouring roles of a packed weight."""
        columns = slice(linear.columns(roles[0]).start, linear.columns(roles[-1]).stop)
        shape = (linear.shape[0], columns.stop - columns.start)
        sites = tuple(Site(linear.block, (role,)) for role in roles)
        read_later = partial(read_columns, linear.tensor, linear.transposed, columns)
        return cls(sites, lazily(read_later, linear.tensor.dtype, shape))


@dataclass(frozen=True)
class PairPiece:
    """Columns that a pair computes: A [in, rank], shared by all pieces of its site, and B [rank, out of this piece].

    `basis` is A's name in the plan: sites that name the same one read one initializer.
    """

    site: Site
    roles: tuple[str, ...]
    a: ir.TensorProtocol
    b: ir.TensorProtocol
    basis: str


def runs(roles: Sequence[str], owner: Mapping[str, T]) -> Iterator[tuple[tuple[str, ...], T | None]]:
    """Neighbouring roles with the same owner (or none), in storage order."""
    for _, group in groupby(roles, key=lambda role: id(owner.get(role))):
        members = tuple(group)
        yield members, owner.get(members[0])


class Surgery:
    """Replaces linears of one graph. Keeps every A, and x @ A of each site: pieces in several linears share them."""

    def __init__(self, graph: ir.Graph, made_by: str) -> None:
        self._graph, self._made_by = graph, made_by
        self._inner: dict[Site, ir.Value] = {}
        self._bases: dict[tuple[str, ir.DataType | None], ir.Value] = {}

    def replace(self, linear: Linear, pieces: Iterable[DensePiece | PairPiece]) -> None:
        """Put the pieces in the MatMul's place. Linears must come in the graph's order."""
        results = [
            self._dense(linear, piece) if isinstance(piece, DensePiece) else self._pair(linear, piece)
            for piece in pieces
        ]
        result = results[0] if len(results) == 1 else self._join(linear, results)
        for bias in (place for place in linear.biases if place[0] is linear.node):
            sites = ",".join(map(str, linear.sites))
            operands = [result, initializer_at(bias)]
            result = self._node(linear, "Add", operands, "bias", sites, f"{linear.node.name}/bias")
        linear.node.outputs[0].replace_all_uses_with(result)
        weight = linear.weight
        self._graph.remove(linear.node, safe=True)
        if not weight.uses():  # a Transpose that reads it is dead now, and cleaned up with it
            self._graph.initializers.pop(str(weight.name))

    def divide(self, linear: Linear, pieces: Sequence[DensePiece], split: ir.Node) -> None:
        """Put a linear for each piece in the place of one whose result `split` alone parts. A bias between the two is
        parted with it."""
        whole, start = split.inputs[0], 0
        assert whole is not None
        bias = next((place for place in linear.biases if place[0] is whole.producer()), None)
        for part, piece in zip(split.outputs, pieces, strict=True):
            result = self._dense(linear, piece)
            if bias is not None:
                result = self._biased(linear, piece, result, bias, start)
            part.replace_all_uses_with(result)
            start += piece.weight.shape.numpy()[1]
        weight = linear.weight
        self._graph.remove([split, *([bias[0]] if bias is not None else []), linear.node], safe=True)
        if not weight.uses():
            self._graph.initializers.pop(str(weight.name))

    def _biased(self, linear: Linear, piece: DensePiece, result: ir.Value, bias: Place, start: int) -> ir.Value:
        old, size, value = tensor_at(bias), piece.weight.shape.numpy()[1], initializer_at(bias)
        sites, label = ",".join(map(str, piece.sites)), "_".join(site.role for site in piece.sites)
        part = lazily(partial(read_rows, old, start, start + size), old.dtype, (size,))
        vector = add_initializer(self._graph, f"{value.name}.{label}", part)
        return self._node(linear, "Add", [result, vector], "bias", sites, f"{linear.node.name}/{label}/bias")

    def _join(self, linear: Linear, results: Sequence[ir.Value]) -> ir.Value:
        sites = ",".join(map(str, linear.sites))
        return self._node(linear, "Concat", results, "join", sites, f"{linear.node.name}/join")

    def _dense(self, linear: Linear, piece: DensePiece) -> ir.Value:
        sites, label = ",".join(map(str, piece.sites)), "_".join(site.role for site in piece.sites)
        return self._matmul(linear, linear.node.inputs[0], piece.weight, "dense", sites, label)[0]

    def _pair(self, linear: Linear, piece: PairPiece) -> ir.Value:
        role, site = piece.site.role, str(piece.site)
        if piece.site not in self._inner:
            key = (piece.basis, piece.a.dtype)
            basis = self._bases.get(key, piece.a)
            inner = self._matmul(linear, linear.node.inputs[0], basis, "A", site, f"{role}.A")
            self._inner[piece.site], self._bases[key] = inner
        if piece.roles == piece.site.roles:
            return self._matmul(linear, self._inner[piece.site], piece.b, "B", site, f"{role}.B")[0]
        made = self._matmul(linear, self._inner[piece.site], piece.b, "B", site, f"{role}.B.{'_'.join(piece.roles)}")[0]
        node = made.producer()
        assert node is not None
        node.metadata_props[COLUMNS] = ",".join(piece.roles)
        return made

    def _matmul(
        self, linear: Linear, x: ir.Value | None, weight: ir.TensorProtocol | ir.Value, part: str, site: str, label: str
    ) -> tuple[ir.Value, ir.Value]:
        """The product, and the initializer it reads: a new one of a tensor, or the one given."""
        if not isinstance(weight, ir.Value):
            base = str(linear.weight.name).removesuffix(".weight")
            weight = add_initializer(self._graph, f"{base}.{label}", weight)
        name = f"{linear.node.name}/{label.replace('.', '/')}"
        return self._node(linear, "MatMul", [x, weight], part, site, name), weight

    def _node(
        self, linear: Linear, op: str, inputs: Sequence[ir.Value | None], part: str, site: str, name: str
    ) -> ir.Value:
        attributes = [ir.AttrInt64("axis", -1)] if op == "Concat" else []
        marks = {MADE_BY: self._made_by, SITE: site, PART: part, BLOCK: str(linear.block)}
        node = ir.Node("", op, inputs, attributes, name=name, metadata_props=marks)
        output = node.outputs[0]
        output.name = f"{name}/output_0"
        output.type = ir.TensorType(linear.tensor.dtype)
        output.shape = _result_shape(linear, inputs, op)
        self._graph.insert_before(linear.node, node)
        return output


def _result_shape(linear: Linear, inputs: Sequence[ir.Value | None], op: str) -> ir.Shape | None:
    """Leading axes as the linear's, the last as the weight's."""
    whole = linear.node.outputs[0].shape
    if whole is None or op == "Concat":
        return ir.Shape(whole) if whole is not None else None
    weight = inputs[1]
    assert weight is not None
    assert weight.shape is not None
    return ir.Shape([*whole.dims[:-1], weight.shape[-1]])
