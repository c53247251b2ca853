"""Add vectors to what matrices give: y = x W  ->  y = x W + b; of a packed linear to the columns of a role.

Knows plans and graphs. Knows nothing of how the vectors were computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from foldrank.digests import WeightDigest
from foldrank.edits.add_bias import AddBias
from foldrank.edits.base import Part
from foldrank.errors import PassRefused
from foldrank.graph.linear.weights import Array
from foldrank.graph.view.decoder import Decoder, Linear, View
from foldrank.passes.base import Change, Effect, GraphPass, Receipt, Stage, Work
from foldrank.passes.biases import add_to_result, whole
from foldrank.passes.proof import prove, source_digests
from foldrank.passes.ranges import check_range
from foldrank.passes.targets import misfits


def passes(edits: tuple[AddBias, ...], work: Work) -> Iterator[tuple[Stage, GraphPass]]:
    """One, over all sites."""
    yield Stage.CONTENT, AddBiases(edits, work.arrays, work.source, work.weights, work.edited)


@dataclass(frozen=True)
class AddBiases(GraphPass):
    """Add the vectors. `weights`: digests of the source's matrices by site, which those are proved by that no earlier
    edit wrote (`edited`); who wrote a matrix has proved it."""

    edits: tuple[AddBias, ...]
    arrays: Mapping[str, Array]
    source: str
    weights: Mapping[str, WeightDigest]
    edited: frozenset[Part] = frozenset()
    name: ClassVar[str] = "add_bias"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Prove every matrix, then add. Raises PassRefused, PlanMismatch."""
        decoder = (view or View(model)).decoder
        if reasons := [r for edit in self.edits for r in _misfits(edit, decoder)]:
            raise PassRefused(self.name, reasons, "apply the plan to an export of the checkpoint it was made for")
        touched: dict[Linear, list[AddBias]] = {}
        for edit in self.edits:
            touched.setdefault(decoder.by_number[edit.site.block].by_role[edit.site.role], []).append(edit)
        if reasons := [f"{edits[0].site}: the graph adds its bias behind a part of what {linear.node.name} gives"
                       for linear, edits in touched.items() if not whole(linear)]:
            raise PassRefused(self.name, reasons, "export it with another exporter")
        check_range(self.name, ((edit.site, [edit.bias], linear.tensor.dtype)
                                for linear, edits in touched.items() for edit in edits), self.arrays)
        sites = (edit.site for edit in self.edits)
        lacking = "the plan adds a bias behind this weight and holds no digest of it"
        prove(touched, source_digests(sites, self.weights, self.edited, lacking), self.source)
        for linear, edits in touched.items():
            add_to_result(model.graph, linear, partial(self._vector, linear, edits), self.name)
        size = {edit: decoder.by_number[edit.site.block].by_role[edit.site.role].tensor.dtype.numpy().itemsize
                for edit in self.edits}
        return Receipt(self.name, self.effect, tuple(
            Change(str(edit.site), 0, edit.width * size[edit], "a bias more") for edit in self.edits))

    def _vector(self, linear: Linear, edits: Sequence[AddBias]) -> Array:
        """One number for each column of the linear; those of other roles are 0."""
        found = np.zeros(sum(linear.widths), dtype=np.float32)
        for edit in edits:
            found[linear.columns(edit.site.role)] += self.arrays[edit.bias]
        return found


def _misfits(edit: AddBias, decoder: Decoder) -> Iterator[str]:
    block = decoder.by_number.get(edit.site.block)
    linear = block.by_role.get(edit.site.role) if block is not None else None
    yield from misfits(edit.site, (linear.shape[0] if linear is not None else 0, edit.width), decoder)
