"""Rotate the residual stream: weights with their norms' gains in another basis, then a product at either end.

    embedding ── x ── block 0 … ── norm(g) ── head
    embedding ── x ── MatMul(Q) ── block 0 … ── norm(1) ── MatMul(Q) ── Mul(g) ── head

Both products read one initializer, as Q is its own inverse. Behind the blocks it stands between the final norm and its
gain: so a norm merged with the sum before it stays merged. Knows plans and graphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from foldrank.digests import WeightDigest
from foldrank.edits.base import Part
from foldrank.edits.rotate_stream import RotateStream
from foldrank.errors import PassRefused
from foldrank.graph.linear.gains import Gain
from foldrank.graph.linear.linears import Place, initializer_at, tensor_at
from foldrank.graph.linear.marks import MADE_BY, PART, ROTATION
from foldrank.graph.linear.weights import add_initializer, set_initializer
from foldrank.graph.view.decoder import Decoder, Linear, View
from foldrank.graph.view.residual import Ends, ends_of, gain_of, ways
from foldrank.passes.base import Change, Effect, GraphPass, Receipt, Stage, Work
from foldrank.passes.proof import prove, source_digests
from foldrank.passes.turning import Turn

_Matrices = dict[ir.DataType, ir.Value]
"""Q, as each type in which the stream is multiplied."""


def passes(edits: tuple[RotateStream, ...], work: Work) -> Iterator[tuple[Stage, GraphPass]]:
    """Weights; the ends of the stream once blocks have left."""
    for edit in edits:
        yield Stage.CONTENT, RotateWeights(edit, work.source, work.weights, work.edited)
        yield Stage.REMOVAL, RotateEnds(edit)


@dataclass
class _Found:
    """What is to be turned: readers of the stream with their norm's gain, writers, gains, and reasons against it."""

    readers: dict[Linear, Gain] = field(default_factory=dict)
    writers: dict[Linear, None] = field(default_factory=dict)
    gains: dict[Place, Gain] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RotateWeights(GraphPass):
    """Q diag(g) W in the place of W where the stream is read, W Q where it is written to, and a gain that does nothing.
    `weights`: digests of the source's matrices by site, for those that no earlier edit wrote (`edited`)."""

    rotation: RotateStream
    source: str
    weights: Mapping[str, WeightDigest]
    edited: frozenset[Part] = frozenset()
    name: ClassVar[str] = "rotate_weights"
    effect: ClassVar[Effect] = Effect.ROUNDING

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Prove every matrix, then turn. Raises PassRefused, PlanMismatch."""
        decoder = (view or View(model)).decoder
        found = self._found(model.graph, decoder)
        if reasons := found.reasons or list(_misfits(self.rotation, decoder)):
            raise PassRefused(self.name, reasons, "plan again without rotate")
        linears = dict.fromkeys((*found.readers, *found.writers))
        lacking = "the plan rotates this weight and holds no digest of it"
        sites = (site for linear in linears for site in linear.sites)
        prove(linears, source_digests(sites, self.weights, self.edited, lacking), self.source)
        turn, made = Turn.of(self.rotation), list[tuple[ir.Node, int, ir.TensorProtocol]]()
        for linear, gain in found.readers.items():
            weight = turn.read(linear.tensor, tensor_at(gain.place), gain.offset, transposed=linear.transposed)
            made.append((*linear.place, weight))
        for linear in found.writers:
            made.append((*linear.place, turn.written(linear.tensor, transposed=linear.transposed)))
            made += [(*place, turn.bias(tensor_at(place))) for place in linear.biases]
        for place, gain in found.gains.items():
            made.append((*place, _constant(gain)))
        for node, slot, tensor in made:
            set_initializer(model.graph, node, slot, tensor)
            node.metadata_props[MADE_BY] = self.name
        return Receipt(self.name, self.effect, tuple(
            Change(", ".join(map(str, linear.sites)), 0, 0, "turned with the stream") for linear in linears))

    def _found(self, graph: ir.Graph, decoder: Decoder) -> _Found:
        found, width = _Found(), self.rotation.width
        around, found.reasons = ways(graph, decoder, self.rotation.branches, width)
        for way in around:
            for linear in way.readers:
                gain = gain_of(linear, way.together)
                if isinstance(gain, str):
                    found.reasons.append(gain)
                elif gain.width != width:
                    found.reasons.append(f"{linear.sites[0]}: its norm has {gain.width} gains, not {width}")
                else:
                    found.readers[linear] = found.gains[gain.place] = gain
            found.writers[way.last] = None
        return found


@dataclass(frozen=True)
class RotateEnds(GraphPass):
    """Turn what enters the first block, and back what the final norm gives before its gain."""

    rotation: RotateStream
    name: ClassVar[str] = "rotate_ends"
    effect: ClassVar[Effect] = Effect.ROUNDING

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Raises PassRefused where an end of the stream is not told."""
        decoder, graph = (view or View(model)).decoder, model.graph
        ends = ends_of(decoder)
        if isinstance(ends, str):
            raise PassRefused(self.name, [ends], "plan again without rotate")
        reading = [use for use in ends.entering.uses() if use.node in decoder.inside]
        matrices: _Matrices = {}
        turned = self._product(graph, "enter", ends.entering, _of_cache(decoder), matrices)
        for use in reading:
            use.node.replace_input_with(use.idx, turned)
        final = ends.final
        if final.slot is not None:
            slot = 1 - final.slot
            normed = final.node.inputs[slot]
            assert normed is not None
            back = self._product(graph, "leave", normed, tensor_at(final.place).dtype, matrices)
            final.node.replace_input_with(slot, back)
        else:
            self._behind(graph, final, matrices)
        size = sum(matrix.const_value.nbytes for matrix in matrices.values() if matrix.const_value is not None)
        change = Change("the stream", 0, size, "turned before the blocks and back behind")
        return Receipt(self.name, self.effect, (change,))

    def _behind(self, graph: ir.Graph, final: Gain, matrices: _Matrices) -> None:
        """Of a norm that is one operator: its gain comes after the product."""
        node, normed = final.node, final.node.outputs[0]
        name, gain = str(initializer_at(final.place).name), tensor_at(final.place)
        set_initializer(graph, *final.place, _constant(final))
        readers = list(normed.uses())
        back = self._product(graph, "leave", normed, gain.dtype, matrices)
        product = back.producer()
        assert product is not None
        whole = _node("Mul", "gain", [back, add_initializer(graph, f"{name}.behind", gain)], {MADE_BY: self.name}, back)
        graph.insert_after(product, whole)
        for use in readers:
            use.node.replace_input_with(use.idx, whole.outputs[0])
        node.metadata_props[MADE_BY] = self.name

    def _product(
        self, graph: ir.Graph, where: str, value: ir.Value, dtype: ir.DataType, matrices: _Matrices
    ) -> ir.Value:
        """The value times Q, made right behind it. `dtype`: where the graph does not tell that of the value."""
        dtype = value.dtype or dtype
        if dtype not in matrices:
            matrices[dtype] = add_initializer(graph, f"{ROTATION}.matrix", Turn.of(self.rotation).matrix(dtype))
        node = _node("MatMul", where, [value, matrices[dtype]], {MADE_BY: self.name, PART: ROTATION}, value)
        node.outputs[0].type = ir.TensorType(dtype)
        maker = value.producer()
        assert maker is not None
        graph.insert_after(maker, node)
        return node.outputs[0]


def _misfits(edit: RotateStream, decoder: Decoder) -> Iterator[str]:
    """Why the ends cannot be turned; what leaves the graph first does not change them."""
    ends = ends_of(decoder)
    if not isinstance(ends, Ends):
        yield ends
        return
    if ends.final.width != edit.width:
        yield f"the final norm has {ends.final.width} gains, not {edit.width}"
    if ends.final.slot is None and ends.final.node.outputs[0].is_graph_output():
        yield f"{ends.final.node.name}: what the final norm gives is an output of the graph"


def _of_cache(decoder: Decoder) -> ir.DataType:
    """The type of keys and values."""
    return next(value.dtype for block in decoder.blocks for value in block.past if value.dtype is not None)


def _node(op: str, where: str, inputs: list[ir.Value | None], marks: dict[str, str], like: ir.Value) -> ir.Node:
    node = ir.Node("", op, inputs, name=f"/{ROTATION}/{where}", metadata_props=marks)
    node.outputs[0].name = f"/{ROTATION}/{where}/output_0"
    node.outputs[0].type = like.type
    node.outputs[0].shape = None if like.shape is None else ir.Shape(like.shape)
    return node


def _constant(gain: Gain) -> ir.TensorProtocol:
    """The gain that does nothing."""
    old = tensor_at(gain.place)
    return ir.Tensor(np.full(old.shape.numpy(), gain.nothing, old.dtype.numpy()), dtype=old.dtype)
