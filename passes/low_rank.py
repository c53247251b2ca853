"""Replace MatMul weights by low-rank pairs: y = x @ W  ->  y = (x @ A) @ B.

Knows plans and graphs. Knows nothing of how factors were computed. One edit may cover a linear of the graph exactly,
several linears that read one input (A is shared, B split by columns), or a part of a packed linear (pieces joined).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from foldrank.digests import cast
from foldrank.edits.base import Part
from foldrank.edits.low_rank import LowRank
from foldrank.errors import PassRefused
from foldrank.graph.linear.weights import Array, lazily
from foldrank.graph.view.decoder import Decoder, Linear, View
from foldrank.passes.base import Change, Effect, GraphPass, Receipt, Stage, Work
from foldrank.passes.pieces import DensePiece, PairPiece, Surgery, runs
from foldrank.passes.proof import prove, replaced_digests
from foldrank.passes.ranges import check_range
from foldrank.passes.targets import column_spans, misfits, targets


def passes(edits: tuple[LowRank, ...], work: Work) -> Iterator[tuple[Stage, GraphPass]]:
    """One, over all sites."""
    yield Stage.CONTENT, FactorLinears(edits, work.arrays, work.source, work.written)


@dataclass(frozen=True)
class FactorLinears(GraphPass):
    """Put pairs in place. `arrays` holds the factors, float32; `source` names the plan's checkpoint in messages.
    `written`: parts that the plan wrote before."""

    edits: tuple[LowRank, ...]
    arrays: Mapping[str, Array]
    source: str
    written: frozenset[Part] = frozenset()
    name: ClassVar[str] = "low_rank"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Prove every weight replaced, then replace. Raises PassRefused, PlanMismatch."""
        decoder = (view or View(model)).decoder
        if reasons := [r for edit in self.edits for r in misfits(edit.site, edit.shape, decoder)]:
            raise PassRefused(self.name, reasons, "apply the plan to an export of the checkpoint it was made for")
        stored = {edit: targets(edit.site, decoder)[0].tensor.dtype for edit in self.edits}
        check_range(self.name, ((edit.site, edit.factors, dtype) for edit, dtype in stored.items()), self.arrays)
        touched = _by_linear(self.edits, decoder, model.graph)
        prove(touched, replaced_digests(self.edits, self.written), self.source)
        first = {edit.factors[0]: edit for edit in reversed(self.edits)}  # a basis that several share is counted once
        changes = tuple(
            _change(edit, dtype, own=first[edit.factors[0]] is edit) for edit, dtype in stored.items()
        )
        surgery = Surgery(model.graph, self.name)
        for linear, edits in touched.items():
            surgery.replace(linear, list(self._pieces(linear, edits, decoder)))
        return Receipt(self.name, self.effect, changes)

    def _pieces(
        self, linear: Linear, edits: Mapping[str, LowRank], decoder: Decoder
    ) -> Iterator[DensePiece | PairPiece]:
        """The linear's columns in order: for each run of roles the pair of one edit, or the dense rest."""
        dtype = linear.tensor.dtype
        for roles, edit in runs(linear.roles, edits):
            if edit is None:
                yield DensePiece.of(linear, roles)
                continue
            spans = column_spans(edit.site, decoder)
            columns = slice(spans[roles[0]].start, spans[roles[-1]].stop)
            a, b = (partial(self._factor, name, dtype) for name in edit.factors)
            yield PairPiece(
                edit.site, roles, a=lazily(a, dtype, (edit.shape[0], edit.rank)),
                b=lazily(partial(b, columns), dtype, (edit.rank, columns.stop - columns.start)), basis=edit.factors[0],
            )

    def _factor(self, name: str, dtype: ir.DataType, columns: slice = slice(None)) -> Array:
        return np.ascontiguousarray(cast(self.arrays[name], dtype.numpy())[:, columns])


def _by_linear(edits: tuple[LowRank, ...], decoder: Decoder, graph: ir.Graph) -> dict[Linear, dict[str, LowRank]]:
    """Linears touched, in the graph's order, each with the edit of each role that has one."""
    found: dict[Linear, dict[str, LowRank]] = {}
    for edit in edits:
        for linear in targets(edit.site, decoder):
            found.setdefault(linear, {}).update({role: edit for role in linear.roles if role in edit.site.roles})
    order = {node: i for i, node in enumerate(graph)}
    return dict(sorted(found.items(), key=lambda item: order[item[0].node]))


def _change(edit: LowRank, dtype: ir.DataType, *, own: bool) -> Change:
    (n_in, n_out), itemsize = edit.shape, dtype.numpy().itemsize
    return Change(
        str(edit.site), n_in * n_out * itemsize, edit.rank * (n_in * own + n_out) * itemsize,
        f"rank {edit.rank} of {min(n_in, n_out)}",
    )
