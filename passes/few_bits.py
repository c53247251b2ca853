"""Put operators that read few bits in the place of a MatMul, a Gemm or a Gather: MatMulNBits and GatherBlockQuantized,
or DequantizeLinear with MatMul and Gather, as the storage says.

Knows nodes, and that few bits have two forms. Knows no kind of edit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import onnx_ir as ir

from foldrank.edits.storage import FewBits, Form, Numbers
from foldrank.errors import PassRefused
from foldrank.graph.linear.head import stored_table
from foldrank.graph.linear.linears import StoredMatrix, bias_of, initializer_at, stored_matrix
from foldrank.graph.linear.marks import BLOCK, MADE_BY, PART, SITE
from foldrank.graph.linear.matrices import stored_as
from foldrank.graph.linear.weights import add_initializer
from foldrank.passes import nbits, qdq
from foldrank.passes.base import Change
from foldrank.passes.making import Maker
from foldrank.passes.numbers import Part, Source
from foldrank.sites import Site


class Operators(Protocol):
    """What the module of a form has. Shapes are [in, out], of a table of words [width, words]."""

    def admit(self, model: ir.Model) -> None:
        """Make the model one that may hold them. Raises PassRefused and leaves it as it was."""

    def tensors(
        self, part: Part, storage: FewBits, shape: tuple[int, int], dtype: ir.DataType, *, by_rows: bool = False
    ) -> list[ir.LazyTensor]:
        """Numbers, scales of this dtype and, where not symmetric, zero points; `by_rows`: for `rows` alone."""

    def product(
        self, maker: Maker, old: ir.Node, shape: tuple[int, int], stored: Sequence[ir.Value], storage: FewBits,
        marks: Mapping[str, str],
    ) -> ir.Node:
        """x @ W in an old node's place."""

    def rows(
        self, maker: Maker, old: ir.Node, shape: tuple[int, int], stored: Sequence[ir.Value], storage: FewBits,
        marks: Mapping[str, str], *, shared: bool,
    ) -> ir.Node:
        """Rows of a table, by tokens. `shared`: what is stored is a head's."""


FORMS: Mapping[Form, Operators] = {"nbits": nbits, "qdq": qdq}


def table_at(node: ir.Node) -> StoredMatrix:
    """The table that a Gather reads rows of, [width, words] as a head would hold it. Raises PassRefused where it is no
    matrix of floats."""
    found = stored_table(node)
    if found is None:
        what = "embedding: the graph reads no table of floats"
        raise PassRefused("quantize", [what], "plan with embedding_bits=none")
    return found


def matrix_at(node: ir.Node) -> StoredMatrix:
    """Of a MatMul or Gemm that reads a float matrix."""
    stored = stored_matrix(node)
    assert stored is not None
    return stored


class Swap:
    """Replaces nodes of one graph. A weight that several read is quantized once. Raises PassRefused where the model
    cannot hold operators of a storage's form."""

    def __init__(self, model: ir.Model, source: Source, made_by: str, storages: Iterable[FewBits]) -> None:
        for form in {storage.form for storage in storages}:
            FORMS[form].admit(model)
        self._maker, self._source = Maker(model.graph, made_by), source
        self._made: dict[tuple[ir.Value, bool, FewBits, tuple[Numbers, ...]], list[ir.Value]] = {}

    def replace(
        self, node: ir.Node, storage: FewBits, sites: tuple[Site, ...], held: tuple[Numbers, ...] = ()
    ) -> Change:
        """Put a product by few bits, and an Add for a Gemm's bias, in the node's place. No sites: the head. `held`:
        planned numbers, side by side; none: those of the quantizer."""
        matrix = matrix_at(node)
        weight = matrix.weight
        key = (weight, matrix.transposed, storage, held)
        if fresh := key not in self._made:
            self._made[key] = self._stored(matrix, storage, held)
        stored, marks = self._made[key], self._marks(node, sites)
        made = FORMS[storage.form].product(self._maker, node, matrix.shape, stored, storage, marks)
        if node.op_type == "Gemm" and (bias := bias_of(node)) is not None:
            operands = [made.outputs[0], initializer_at(bias)]
            own = {**marks, **({PART: "bias"} if sites else {})}
            made = self._maker.in_place(node, "", "Add", operands, "/bias", own)
        if node.outputs[0].is_graph_output():
            made.outputs[0].name = node.outputs[0].name
        node.outputs[0].replace_all_uses_with(made.outputs[0], replace_graph_outputs=True)
        size = matrix.tensor.nbytes
        before = size if self._maker.remove(node, matrix) else 0
        where = f"{marks.get(SITE, 'head')} {marks[PART] if marks.get(PART) in ('A', 'B') else ''}".strip()
        return Change(where, before, _bytes(stored) if fresh else 0, str(storage))

    def look_up(self, node: ir.Node, storage: FewBits, head: ir.Node | None) -> Change:
        """Put what reads rows of few bits in the place of a Gather of a table's rows. `head`: the product whose numbers
        are the table's too."""
        matrix = table_at(node)
        shared = None if head is None else stored_as(head)
        stored = self._stored(matrix, storage, (), by_rows=True) if shared is None else [shared[0], *shared[1]]
        made = FORMS[storage.form].rows(self._maker, node, matrix.shape, stored, storage,
                                        {MADE_BY: self._maker.made_by}, shared=shared is not None)
        node.outputs[0].replace_all_uses_with(made.outputs[0])
        size = matrix.tensor.nbytes
        before = size if self._maker.remove(node, matrix) else 0
        return Change("embedding", before, _bytes(stored) if shared is None else 0,
                      f"{storage}{', one table with the head' if shared is not None else ''}")

    def _marks(self, node: ir.Node, sites: tuple[Site, ...]) -> dict[str, str]:
        """What later views read the new node by; a factor stays one."""
        if not sites:
            return {MADE_BY: self._maker.made_by}
        site = node.metadata_props.get(SITE, ",".join(map(str, sites)))
        return {MADE_BY: self._maker.made_by, SITE: site, PART: node.metadata_props.get(PART, "dense"),
                BLOCK: str(sites[0].block)}

    def _stored(
        self, matrix: StoredMatrix, storage: FewBits, held: tuple[Numbers, ...], *, by_rows: bool = False
    ) -> list[ir.Value]:
        """Initializers of numbers, scales and, where not symmetric, zero points."""
        name, part = matrix.weight.name, self._source.parts(matrix, storage, held)
        made = FORMS[storage.form].tensors(part, storage, matrix.shape, matrix.tensor.dtype, by_rows=by_rows)
        names = (f"{name}_Q{storage.bits}", f"{name}_scales", f"{name}_zero_points")
        return [add_initializer(self._maker.graph, *named) for named in zip(names, made, strict=False)]


def _bytes(stored: Sequence[ir.Value]) -> int:
    return sum(value.const_value.nbytes for value in stored if value.const_value is not None)
