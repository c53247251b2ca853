"""Put a pair in the place of the head, of the table of words, or one for both.

    x ── MatMul A ── MatMul B ── logits             tokens ── Gather B^T ── MatMul A^T ── vectors

Knows plans and graphs. One pair for both is stored once, the way round in which the exporter holds the head; who reads
it otherwise has a Transpose before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from foldrank.digests import cast
from foldrank.edits.base import EMBEDDING, HEAD
from foldrank.edits.low_rank_table import LowRankTable
from foldrank.errors import PassRefused, PlanMismatch
from foldrank.graph.linear.head import head_of, lookups, stored_table
from foldrank.graph.linear.linears import StoredMatrix, bias_of, initializer_at, stored_matrix
from foldrank.graph.linear.marks import MADE_BY, PART, TABLE
from foldrank.graph.linear.weights import Array, add_initializer, lazily
from foldrank.graph.view.decoder import View
from foldrank.passes.base import Change, Effect, GraphPass, Receipt, Stage, Work
from foldrank.passes.making import Maker
from foldrank.passes.ranges import check_range

_WAY_OUT = "apply the plan to an export of the checkpoint it was made for"


def passes(edits: tuple[LowRankTable, ...], work: Work) -> Iterator[tuple[Stage, GraphPass]]:
    """One each."""
    for edit in edits:
        yield Stage.CONTENT, FactorTable(edit, work.arrays, work.source)


@dataclass(frozen=True)
class FactorTable(GraphPass):
    """Put the pair in place. `arrays` holds the factors, float32; `source` names the plan's checkpoint in messages."""

    wanted: LowRankTable
    arrays: Mapping[str, Array]
    source: str
    name: ClassVar[str] = "low_rank_table"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Prove what is replaced, then replace. Raises PassRefused, PlanMismatch."""
        found = self._found(model.graph)
        for part, (_, matrix) in found.items():
            if not self.wanted.replaces.matches(matrix.read()):
                raise PlanMismatch(part, f"the graph holds another than the plan was made for ({self.source})",
                                   f"{_WAY_OUT}, or plan again")
        maker, turned = Maker(model.graph, self.name), _turned(found)
        a, b = (self._stored(model.graph, found, place, turned=turned) for place in range(2))
        pair = _Pair(maker, a, b, turned)
        before = 0
        for part, (node, matrix) in found.items():
            (pair.head if part == HEAD else pair.embedding)(node)
            size = matrix.tensor.nbytes
            before += size if maker.remove(node, matrix) else 0
        reason = f"rank {self.wanted.rank} of {min(self.wanted.shape)}"
        return Receipt(self.name, self.effect, (Change(" and ".join(found), before, pair.nbytes, reason),))

    def _found(self, graph: ir.Graph) -> dict[str, tuple[ir.Node, StoredMatrix]]:
        """Of each part what reads it, the head's first, and its matrix [width, words]. Raises PassRefused."""
        head, readers, asked = head_of(graph), lookups(graph), self.wanted.parts
        matrices: dict[str, tuple[ir.Node | None, StoredMatrix | None]] = {}
        if HEAD in asked:
            matrices[HEAD] = head, stored_matrix(head) if head is not None else None
        if EMBEDDING in asked:
            reader = readers[0] if len(readers) == 1 else None
            matrices[EMBEDDING] = reader, stored_table(reader) if reader is not None else None
        found = {part: (node, matrix) for part, (node, matrix) in matrices.items()
                 if node is not None and matrix is not None and matrix.shape == self.wanted.shape}
        reasons = [f"{part}: the graph has no plain matrix {list(self.wanted.shape)} of floats for it"
                   for part in matrices if part not in found]
        dtypes = {matrix.tensor.dtype for _, matrix in found.values()}
        if not reasons and len(dtypes) > 1:
            reasons = ["head and embedding are stored in floats of two kinds"]
        if reasons:
            raise PassRefused(self.name, reasons, _WAY_OUT)
        check_range(self.name, ((" and ".join(found), self.wanted.factors, dtype) for dtype in dtypes), self.arrays)
        return found

    def _stored(
        self, graph: ir.Graph, found: Mapping[str, tuple[ir.Node, StoredMatrix]], place: int, *, turned: bool
    ) -> ir.Value:
        """An initializer of A or B, `turned` or not."""
        matrix, name = next(iter(found.values()))[1], self.wanted.factors[place]
        dtype, shape = matrix.tensor.dtype, self.arrays[name].shape
        base = str(matrix.weight.name).removesuffix(".weight")
        tensor = lazily(partial(self._factor, name, dtype, turned), dtype, shape[::-1] if turned else shape)
        return add_initializer(graph, f"{base}.{'AB'[place]}", tensor)

    def _factor(self, name: str, dtype: ir.DataType, turned: bool) -> Array:
        array = cast(self.arrays[name], dtype.numpy())
        return np.ascontiguousarray(array.T if turned else array)


def _turned(found: Mapping[str, tuple[ir.Node, StoredMatrix]]) -> bool:
    """Whether factors are stored turned: as a lookup alone reads them, or as the head is that both are stored with."""
    return EMBEDDING in found and (len(found) == 1 or found[HEAD][1].transposed)


@dataclass(frozen=True)
class _Pair:
    """A [width, rank] and B [rank, words] in a graph, both stored `turned` or neither."""

    maker: Maker
    a: ir.Value
    b: ir.Value
    turned: bool

    @property
    def nbytes(self) -> int:
        """Of both."""
        return sum(value.const_value.nbytes for value in (self.a, self.b) if value.const_value is not None)

    def head(self, node: ir.Node) -> None:
        """(x A) B, and a Gemm's bias, in the place of a product."""
        inner = self._made(node, "MatMul", [node.inputs[0], self._read(node, self.a, "A", turned=False)], "/A", TABLE)
        made = self._made(node, "MatMul", [inner, self._read(node, self.b, "B", turned=False)], "/B")
        if node.op_type == "Gemm" and (bias := bias_of(node)) is not None:
            made = self._made(node, "Add", [made, initializer_at(bias)], "/bias")
        if node.outputs[0].is_graph_output():
            made.name = node.outputs[0].name
        node.outputs[0].replace_all_uses_with(made, replace_graph_outputs=True)

    def embedding(self, node: ir.Node) -> None:
        """Rows of B^T, times A^T, in the place of a lookup."""
        rows = self._made(node, "Gather", [self._read(node, self.b, "B", turned=True), node.inputs[1]], "/B")
        made = self._made(node, "MatMul", [rows, self._read(node, self.a, "A", turned=True)], "/A", TABLE)
        node.outputs[0].replace_all_uses_with(made)

    def _made(
        self, node: ir.Node, op: str, inputs: list[ir.Value | None], suffix: str, part: str | None = None
    ) -> ir.Value:
        """What a new node before an old one gives, as wide as the matrix it reads. `part`: its mark, where it has
        one."""
        marks = {MADE_BY: self.maker.made_by} | ({} if part is None else {PART: part})
        made = self.maker.in_place(node, "", op, inputs, suffix, marks).outputs[0]
        matrix = inputs[0] if op == "Gather" else inputs[1]
        if made.shape is not None and matrix is not None and matrix.shape is not None:
            made.shape = ir.Shape([*made.shape.dims[:-1], matrix.shape[-1]])
        return made

    def _read(self, node: ir.Node, value: ir.Value, label: str, *, turned: bool) -> ir.Value:
        """A factor as it is, or `turned`, whichever way it is stored."""
        if turned == self.turned:
            return value
        assert value.shape is not None
        assert value.dtype is not None
        return self.maker.before(node, "Transpose", [value], f"/{label}/Transpose", value.dtype,
                                 value.shape.numpy()[::-1], {"perm": [1, 0]})
