"""Narrower MLPs: fewer columns of gate and up, fewer rows of down (or another down), a bias behind it.

Knows plans and graphs. Knows nothing of how channels were chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from foldrank.digests import cast
from foldrank.edits.base import Part as Place
from foldrank.edits.slice_mlp import SliceMlp
from foldrank.errors import PassRefused
from foldrank.graph.linear.linears import tensor_at
from foldrank.graph.linear.marks import MADE_BY
from foldrank.graph.linear.weights import Array, lazily, set_initializer
from foldrank.graph.view.decoder import Decoder, Linear, View
from foldrank.passes.base import Change, Effect, GraphPass, Receipt, Stage, Work
from foldrank.passes.biases import add_to_result
from foldrank.passes.columns import Narrowing, Part, columns_kept, taken
from foldrank.passes.proof import prove, replaced_digests
from foldrank.passes.ranges import check_range
from foldrank.passes.targets import misfits


def passes(edits: tuple[SliceMlp, ...], work: Work) -> Iterator[tuple[Stage, GraphPass]]:
    """One, over all blocks."""
    yield Stage.CONTENT, SliceMlps(edits, work.arrays, work.source, work.written)


@dataclass(frozen=True)
class SliceMlps(GraphPass):
    """Keep the channels that the edits name. `arrays` holds other downs and biases, float32; `written`: parts that the
    plan wrote before."""

    edits: tuple[SliceMlp, ...]
    arrays: Mapping[str, Array]
    source: str
    written: frozenset[Place] = frozenset()
    name: ClassVar[str] = "slice_mlp"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Prove every weight, then cut. Raises PassRefused, PlanMismatch."""
        decoder = (view or View(model)).decoder
        if reasons := [r for edit in self.edits for r in _misfits(edit, decoder)]:
            raise PassRefused(self.name, reasons, "apply the plan to an export of the checkpoint it was made for")
        check_range(self.name, ((edit.name, edit.arrays(), decoder.by_number[edit.block].by_role["down"].tensor.dtype)
                                for edit in self.edits), self.arrays)
        cuts = [Cut(edit, decoder, model.graph) for edit in self.edits]
        if reasons := [reason for cut in cuts for reason in cut.reasons]:
            raise PassRefused(self.name, reasons, "export it with another exporter")
        touched = [linear for cut in cuts for linear in (*cut.feeding, cut.down)]
        prove(touched, replaced_digests(self.edits, self.written), self.source)
        return Receipt(self.name, self.effect, tuple(cut.make(self.arrays) for cut in cuts))


class Cut:
    """One edit in one graph: what it touches, found before anything changes."""

    def __init__(self, edit: SliceMlp, decoder: Decoder, graph: ir.Graph) -> None:
        held = decoder.by_number[edit.block].by_role
        self._edit, self._graph = edit, graph
        self.down = held["down"]
        self.feeding = tuple(dict.fromkeys(held[role] for role in edit.roles[:-1]))
        self._narrowing = Narrowing(graph, self.down.node, edit.block, SliceMlps.name)
        for linear in self.feeding:
            self._narrowing.follow(linear.node.outputs[0], self._parts(linear))
        self.reasons = [*self._narrowing.reasons, *self._shared()]

    def make(self, arrays: Mapping[str, Array]) -> Change:
        """Cut, and say what was cut."""
        edit, kept = self._edit, np.array(self._edit.channels.numbers)
        before = self._bytes
        if len(kept) < edit.shape[0]:
            self._narrowing.apply()
            for linear in self.feeding:
                columns = columns_kept(self._parts(linear))
                self._put(linear, taken(linear.tensor, columns, 0 if linear.transposed else 1))
                for bias in linear.biases:
                    if bias[0] is linear.node:  # a Gemm's own; an Add is met on the way to down
                        set_initializer(self._graph, *bias, taken(tensor_at(bias), columns, 0))
        if edit.down is not None:
            other = partial(_other_down, arrays, edit.down, self.down.tensor.dtype, self.down.transposed)
            shape = (len(kept), edit.shape[1])
            self._put(self.down, lazily(other, self.down.tensor.dtype, shape[::-1] if self.down.transposed else shape))
        elif len(kept) < edit.shape[0]:
            self._put(self.down, taken(self.down.tensor, kept, 1 if self.down.transposed else 0))
        if edit.bias is not None:
            add_to_result(self._graph, self.down, partial(arrays.__getitem__, edit.bias), SliceMlps.name)
        return Change(edit.name, before, self._bytes, f"{len(kept)} of {edit.shape[0]} channels")

    def _parts(self, linear: Linear) -> tuple[Part, ...]:
        """Columns of each role of a linear that feeds down: q, k and v of one that holds them too stay."""
        kept = self._edit.channels.numbers if len(self._edit.channels) < self._edit.shape[0] else None
        return tuple(Part(width, kept if role in self._edit.roles else None)
                     for role, width in zip(linear.roles, linear.widths, strict=True))

    @property
    def _bytes(self) -> int:
        return sum(linear.tensor.nbytes for linear in (*self.feeding, self.down))

    def _shared(self) -> Iterator[str]:
        """A Transpose before a weight that others read too would change for all of them."""
        for linear in (*self.feeding, self.down):
            place = linear.place[0]
            if place is not linear.node and len(place.outputs[0].uses()) > 1:
                yield f"{self._edit.name}: {place.name} turns a weight for several readers"

    def _put(self, linear: Linear, tensor: ir.TensorProtocol) -> None:
        node, slot = linear.place
        set_initializer(self._graph, node, slot, tensor)
        linear.node.metadata_props[MADE_BY] = SliceMlps.name
        if node is not linear.node and node.outputs[0].shape is not None:
            node.outputs[0].shape = ir.Shape(tensor.shape.numpy()[::-1])


def _misfits(edit: SliceMlp, decoder: Decoder) -> Iterator[str]:
    width, out = edit.shape
    block = decoder.by_number.get(edit.block)
    if block is not None and "gate" in block.by_role and "gate" not in edit.roles:
        yield f"{edit.name}: has a gate, of which the plan says nothing"
    for site in edit.sites:
        yield from misfits(site, (width, out) if site.role == "down" else (out, width), decoder)


def _other_down(arrays: Mapping[str, Array], name: str, dtype: ir.DataType, transposed: bool) -> Array:
    weight = cast(arrays[name], dtype.numpy())
    return np.ascontiguousarray(weight.T) if transposed else weight
