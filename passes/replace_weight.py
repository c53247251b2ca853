"""Replace weights by other dense ones of the same shape: after recovery training, or to make up for an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from foldrank.digests import cast
from foldrank.edits.base import Part
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.errors import PassRefused
from foldrank.graph.linear.marks import MADE_BY
from foldrank.graph.linear.weights import Array, lazily, read, set_initializer
from foldrank.graph.view.decoder import Decoder, Linear, View
from foldrank.passes.base import Change, Effect, GraphPass, Receipt, Stage, Work
from foldrank.passes.proof import prove, replaced_digests
from foldrank.passes.ranges import check_range
from foldrank.passes.targets import column_spans, misfits, targets


def passes(edits: tuple[ReplaceWeight, ...], work: Work) -> Iterator[tuple[Stage, GraphPass]]:
    """One, over all sites."""
    yield Stage.CONTENT, ReplaceWeights(edits, work.arrays, work.source, work.written)


@dataclass(frozen=True)
class ReplaceWeights(GraphPass):
    """Put the named arrays [in, out] in the place of the sites' weights. `written`: parts that the plan wrote
    before."""

    edits: tuple[ReplaceWeight, ...]
    arrays: Mapping[str, Array]
    source: str
    written: frozenset[Part] = frozenset()
    name: ClassVar[str] = "replace_weight"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Prove every weight replaced, then replace. Raises PassRefused, PlanMismatch."""
        decoder = (view or View(model)).decoder
        if reasons := [r for e in self.edits for r in misfits(e.site, self.arrays[e.tensor].shape, decoder)]:
            raise PassRefused(self.name, reasons, "apply the plan to an export of the checkpoint it was made for")
        check_range(self.name, ((edit.site, [edit.tensor], targets(edit.site, decoder)[0].tensor.dtype)
                                for edit in self.edits), self.arrays)
        touched: dict[Linear, list[tuple[slice, str, slice]]] = {}
        for edit in self.edits:
            for linear in targets(edit.site, decoder):
                touched.setdefault(linear, []).extend(_copies(edit, linear, decoder))
        prove(touched, replaced_digests(self.edits, self.written), self.source)
        for linear, copies in touched.items():
            tensor = lazily(
                partial(self._patched, linear.tensor, copies, linear.transposed), linear.tensor.dtype,
                linear.tensor.shape.numpy(),
            )
            set_initializer(model.graph, *linear.place, tensor)
            linear.node.metadata_props[MADE_BY] = self.name
        changes = tuple(Change(str(e.site), 0, 0, f"is {e.tensor} now") for e in self.edits)
        return Receipt(self.name, self.effect, changes)

    def _patched(self, old: ir.TensorProtocol, copies: list[tuple[slice, str, slice]], transposed: bool) -> Array:
        """The old matrix, as it is stored, with columns of W from the plan's arrays."""
        weight = np.array(read(old))
        matrix = weight.T if transposed else weight
        for into, name, columns in copies:
            matrix[:, into] = cast(self.arrays[name], weight.dtype)[:, columns]
        return weight


def _copies(edit: ReplaceWeight, linear: Linear, decoder: Decoder) -> list[tuple[slice, str, slice]]:
    """(columns of the linear, array, columns of the array) for each role the two share."""
    spans = column_spans(edit.site, decoder)
    return [(linear.columns(role), edit.tensor, spans[role]) for role in linear.roles if role in spans]
