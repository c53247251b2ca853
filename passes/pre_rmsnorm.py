"""Turn LayerNorms into RMS norms: what writes to the residual stream is centred, and what enters the first block.

    embedding ── x ── LayerNorm(g, b) ── q, k, v …            embedding ── x - mean ── RMS(g) ── q, k, v + b W …
    … o ── + x ──            … LayerNorm(g, b) ── head        … o (centred) ── + x ──     … RMS(g) ── + b ── head

Knows plans and graphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from foldrank.digests import WeightDigest
from foldrank.edits.base import Part
from foldrank.edits.pre_rmsnorm import PreRmsnorm
from foldrank.errors import PassRefused
from foldrank.graph.linear.layer_norms import LayerNorm, layer_norm_behind
from foldrank.graph.linear.linears import Linear, tensor_at
from foldrank.graph.linear.marks import MADE_BY
from foldrank.graph.linear.weights import set_initializer
from foldrank.graph.view.decoder import Decoder, View
from foldrank.graph.view.residual import (
    entrance_of,
    final_layer_norm,
    layer_norm_of,
    readers_in,
    strangers,
    ways,
)
from foldrank.graph.view.skip_norms import without_sum
from foldrank.passes.base import Change, Effect, GraphPass, Receipt, Stage, Work
from foldrank.passes.biases import add_to_result, whole
from foldrank.passes.centring import behind, centred
from foldrank.passes.clean_up import remove_dead
from foldrank.passes.proof import prove, source_digests
from foldrank.passes.rms_norms import RmsNorms


def passes(edits: tuple[PreRmsnorm, ...], work: Work) -> Iterator[tuple[Stage, GraphPass]]:
    """One; norms of blocks and branches that leave later change too, so that all blocks stay alike."""
    for edit in edits:
        yield Stage.CONTENT, PreRmsnorms(edit, work.source, work.weights, work.edited)


@dataclass
class _Found:
    """What is to be changed: writers of the stream, readers of it with their norms (`norms`: those of all blocks), and
    reasons against it."""

    writers: dict[Linear, None] = field(default_factory=dict)
    readers: dict[Linear, LayerNorm] = field(default_factory=dict)
    norms: dict[Linear, LayerNorm] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PreRmsnorms(GraphPass):
    """Centre what writes to the stream and what enters it; RMS norms for LayerNorms, biases of these behind what reads
    them. `weights`: digests of the source's matrices by site, for those that no earlier edit wrote (`edited`)."""

    change: PreRmsnorm
    source: str
    weights: Mapping[str, WeightDigest]
    edited: frozenset[Part] = frozenset()
    name: ClassVar[str] = "pre_rmsnorm"
    effect: ClassVar[Effect] = Effect.ROUNDING

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Prove every matrix, then change. Raises PassRefused, PlanMismatch."""
        decoder, graph = (view or View(model)).decoder, model.graph
        found, final, entrance = self._found(graph, decoder), final_layer_norm(decoder), entrance_of(decoder)
        reasons = found.reasons + [end for end in (entrance, final) if isinstance(end, str)]
        if isinstance(final, str) or isinstance(entrance, str) or (
                reasons := reasons or list(_obstacles(graph, decoder, entrance, found))):
            raise PassRefused(self.name, reasons, "plan again without pre_rmsnorm")
        linears = dict.fromkeys((*found.readers, *found.writers))
        lacking = "the plan needs this weight for a bias or centres it, and holds no digest of it"
        sites = (site for linear in linears for site in linear.sites)
        prove(linears, source_digests(sites, self.weights, self.edited, lacking), self.source)
        for linear, norm in found.readers.items():
            if norm.bias is not None:
                added = partial(behind, tensor_at(norm.bias), linear.tensor, linear.transposed)
                add_to_result(graph, linear, added, self.name)
        for linear in found.writers:
            places = {linear.place: linear.transposed, **dict.fromkeys(linear.biases, False)}
            for (node, slot), transposed in places.items():
                set_initializer(graph, node, slot, centred(tensor_at((node, slot)), transposed=transposed))
                node.metadata_props[MADE_BY] = self.name
        self._centre(graph, decoder, entrance, found, final)
        return Receipt(self.name, self.effect, tuple(_changes(found)))

    def _found(self, graph: ir.Graph, decoder: Decoder) -> _Found:
        found = _Found()
        around, found.reasons = ways(graph, decoder, self.change.branches, self.change.width)
        for block in decoder.blocks:
            for linear in (together := readers_in(block)):
                norm = layer_norm_of(linear, together)
                if isinstance(norm, str):
                    found.reasons.append(norm)
                elif (width := norm.gain.width) != self.change.width:
                    found.reasons.append(f"{linear.sites[0]}: its norm has {width} gains, not {self.change.width}")
                else:
                    found.norms[linear] = norm
        staying = {linear for way in around for linear in way.readers}
        found.readers = {linear: norm for linear, norm in found.norms.items() if linear in staying}
        found.writers = dict.fromkeys(way.last for way in around)
        return found

    def _centre(self, graph: ir.Graph, decoder: Decoder, entrance: ir.Value | ir.Node, found: _Found,
                final: LayerNorm) -> None:
        """What enters, and all norms. Where a merged norm adds two values to begin with, their sum is made first."""
        rms, norms = RmsNorms(graph, self.name), {norm.node: norm for norm in found.norms.values()}
        if isinstance(entrance, ir.Node):
            less = rms.without_mean(rms.sum_before(entrance))
            del norms[entrance]
            plain = layer_norm_behind(without_sum(graph, entrance, less).outputs[0])
            assert plain is not None
            norms[plain.node] = plain
        else:
            reading = [use for use in entrance.uses() if use.node in decoder.inside]
            less = rms.without_mean(entrance)
            for use in reading:
                use.node.replace_input_with(use.idx, less)
        for norm in norms.values():
            rms.put(norm)
        rms.put(final, keep_bias=True)
        remove_dead(graph)


def _obstacles(graph: ir.Graph, decoder: Decoder, entrance: ir.Value | ir.Node, found: _Found) -> Iterator[str]:
    """What else reads the stream, and biases that are none of a whole product."""
    for node in strangers(graph, decoder, entrance, found.norms.values()):
        yield f"{node.name} ({node.op_type}) reads the stream itself, and would miss its mean"
    for linear, norm in found.readers.items():
        if norm.bias is not None and not whole(linear):
            yield f"{linear.sites[0]}: the graph adds its bias behind a part of what {linear.node.name} gives"


def _changes(found: _Found) -> Iterator[Change]:
    for linear in found.writers:
        yield Change(", ".join(map(str, linear.sites)), 0, 0, "centred")
    for linear, norm in found.readers.items():
        if norm.bias is not None:
            yield Change(", ".join(map(str, linear.sites)), 0, 0, "its norm's bias stands behind it")
