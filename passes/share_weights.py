"""Let a block's linears read the initializers of another block's.

    x --> MatMul(W of block 1)    ->    x --> MatMul(W of block 0)

Biases, and a Transpose that turns the weight, stay each block's own. Knows plans and graphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from foldrank.digests import WeightDigest
from foldrank.edits.base import Part
from foldrank.edits.share_weights import ShareWeights
from foldrank.errors import PassRefused
from foldrank.graph.linear.marks import MADE_BY
from foldrank.graph.view.decoder import Decoder, Linear, View
from foldrank.passes.base import Change, Effect, GraphPass, Receipt, Stage, Work
from foldrank.passes.proof import prove, source_digests


def passes(edits: tuple[ShareWeights, ...], work: Work) -> Iterator[tuple[Stage, GraphPass]]:
    """One, over all blocks, when what they share is written."""
    yield Stage.CONTENT, ShareInitializers(edits, work.weights, work.source, work.edited)


@dataclass(frozen=True)
class ShareInitializers(GraphPass):
    """Share initializers. `weights`: digests of what `source`, the plan's checkpoint, has at the sites of both blocks;
    `edited`: parts that earlier edits wrote, which are no longer that."""

    edits: tuple[ShareWeights, ...]
    weights: Mapping[str, WeightDigest]
    source: str
    edited: frozenset[Part] = frozenset()
    name: ClassVar[str] = "share_weights"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Prove every weight that is read or leaves, then re-wire. Raises PassRefused, PlanMismatch."""
        decoder = (view or View(model)).decoder
        if reasons := [reason for edit in self.edits for reason in _misfits(edit, decoder)]:
            raise PassRefused(self.name, reasons, "apply the plan to an export of the checkpoint it was made for")
        shared = [pair for edit in self.edits for pair in _linears(edit, decoder)]
        self._prove(dict.fromkeys(linear for pair in shared for linear in pair))
        return Receipt(self.name, self.effect, tuple(self._share(model.graph, *pair) for pair in shared))

    def _prove(self, linears: Mapping[Linear, None]) -> None:
        sites = (site for linear in linears for site in linear.sites)
        lacking = "the plan shares this weight and holds no digest of it"
        prove(linears, source_digests(sites, self.weights, self.edited, lacking), self.source)

    def _share(self, graph: ir.Graph, reader: Linear, lender: Linear) -> Change:
        node, slot = reader.place
        old, before = reader.weight, reader.tensor.nbytes
        node.replace_input_with(slot, lender.weight)
        reader.node.metadata_props[MADE_BY] = self.name
        alone = not old.uses()
        if alone:
            graph.initializers.pop(str(old.name))
        return Change(", ".join(map(str, reader.sites)), before if alone else 0, 0,
                      f"reads the weight of {', '.join(map(str, lender.sites))}")


def _linears(edit: ShareWeights, decoder: Decoder) -> Iterator[tuple[Linear, Linear]]:
    """Each linear of the block at the edit's roles, with that of the other block whose weight it is to read."""
    own, lent = (decoder.by_number[number].by_role for number in (edit.block, edit.of))
    for linear in dict.fromkeys(own[role] for role in edit.roles):
        yield linear, lent[linear.roles[0]]


def _misfits(edit: ShareWeights, decoder: Decoder) -> Iterator[str]:
    """Why these blocks cannot share."""
    for number in (edit.block, edit.of):
        if number not in decoder.by_number:
            yield f"block {number} is not in the graph"
            return
        block = decoder.by_number[number]
        if missing := [role for role in edit.roles if role not in block.by_role]:
            yield f"block {number}: no MatMul with a dense weight for {', '.join(missing)}"
            return
    for reader, lender in _linears(edit, decoder):
        where = ", ".join(map(str, reader.sites))
        if rest := [site.role for site in reader.sites if site.role not in edit.roles]:
            yield f"{where}: is one weight, of which the plan leaves {', '.join(rest)}"
        elif _form(reader) != _form(lender):
            yield f"{where}: is not stored as that of block {edit.of} is"


def _form(linear: Linear) -> tuple[object, ...]:
    """What a graph must hold alike for two linears to read one initializer."""
    return (linear.roles, linear.widths, linear.interleaved, linear.transposed, linear.tensor.dtype,
            tuple(linear.tensor.shape.numpy()))
