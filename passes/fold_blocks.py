"""Fold blocks, first half: the merged block's weights, biases and norm gains, made of the graph's own initializers.

The lowest block of a window keeps its place in the graph (block 0 may enter the stack in a form no other block has) and
takes the number of the block that the plan folds into; the two exchange numbers, so every site stays true. The blocks
that leave are removed by `DropBlocks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from foldrank.digests import WeightDigest
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.errors import PassRefused, PlanMismatch
from foldrank.graph.dataflow.forms import Code
from foldrank.graph.linear.linears import initializer_at, tensor_at
from foldrank.graph.linear.marks import BLOCK, MADE_BY
from foldrank.graph.linear.weights import combination, set_initializer
from foldrank.graph.view.decoder import Block, Decoder, Linear, View
from foldrank.passes.base import Change, Effect, GraphPass, Receipt, Stage, Work
from foldrank.passes.drop_blocks import DropBlocks
from foldrank.passes.proof import prove
from foldrank.sites import Site

_Write = tuple[ir.Node, int, ir.TensorProtocol]


def passes(edits: tuple[FoldBlocks, ...], work: Work) -> Iterator[tuple[Stage, GraphPass]]:
    """Merged weights, then blocks leave."""
    yield Stage.CONTENT, FoldWeights(edits, work.weights, work.source)
    yield Stage.REMOVAL, DropBlocks(tuple(number for fold in edits for number in fold.leaving))


@dataclass(frozen=True)
class FoldWeights(GraphPass):
    """Write merged blocks. `weights`: digest of every single-role weight of every block named; `source`: whose."""

    folds: tuple[FoldBlocks, ...]
    weights: Mapping[str, WeightDigest]
    source: str
    name: ClassVar[str] = "fold_weights"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Prove every block named, then write. Raises PassRefused (blocks of different kinds), PlanMismatch."""
        decoder = (view or View(model)).decoder
        if reasons := [reason for fold in self.folds for reason in _misfits(fold, decoder)]:
            raise PassRefused(self.name, reasons, "plan again without merging these blocks")
        linears = [li for fold in self.folds for b in fold.blocks for li in decoder.by_number[b].linears]
        prove(linears, self._digests(linears), self.source)
        planned = [(fold, list(_writes(fold, decoder))) for fold in self.folds]
        changes = [_apply(model.graph, decoder, fold, writes) for fold, writes in planned]
        return Receipt(self.name, self.effect, tuple(changes))

    def _digests(self, linears: list[Linear]) -> dict[Site, WeightDigest]:
        sites = [site for linear in linears for site in linear.sites]
        if missing := [str(site) for site in sites if str(site) not in self.weights]:
            raise PlanMismatch(missing[0], "the plan folds this block and holds no digest of this weight", "plan again")
        return {site: self.weights[str(site)] for site in sites}


def _misfits(fold: FoldBlocks, decoder: Decoder) -> Iterator[str]:
    """Why these blocks cannot merge. Blocks that only leave may be of any kind."""
    if missing := [b for b in fold.blocks if b not in decoder.by_number]:
        yield f"block {missing[0]} is not in the graph"
        return
    places = [decoder.position(b) for b in fold.blocks]
    if places != list(range(places[0], places[0] + len(places))):
        yield f"blocks {fold.blocks} are not neighbours in the graph"
    meeting = sorted({fold.blocks[0], fold.into, fold.norm_source, *fold.sources})
    first, *others = (decoder.by_number[b] for b in meeting)
    copied = fold.is_copy
    for block in (first, *others):
        if problems := [*(() if copied else block.opaque), *(f"pair at {p.sites[0]}" for p in block.pairs)]:
            yield f"block {block.number} holds what cannot be merged: {problems[0]}"
    for block in others:
        if difference := _difference(first, block):
            yield f"blocks {first.number} and {block.number} are of different kinds: {difference}"
        elif odd := _unequal(first, block):
            yield f"block {block.number} holds what cannot be merged: {odd}, neither weight, bias nor norm"


def _unequal(a: Block, b: Block) -> str | None:
    """The first initializers of a and b that are no weight, bias or norm parameter and differ in content."""
    for one, other in zip(a.others, b.others, strict=True):
        if tensor_at(one).tobytes() != tensor_at(other).tobytes():
            return f"{initializer_at(one).name} and {initializer_at(other).name}"
    return None


def _difference(a: Block, b: Block) -> str | None:
    """What makes two blocks different kinds, in words; None where they are of one kind."""
    if a.kind == b.kind:
        return None
    if len(a.kind) != len(b.kind):
        return f"{len(a.kind)} and {len(b.kind)} nodes"
    both = enumerate(zip(a.kind, b.kind, strict=True))
    place, one, other = next((i, one, other) for i, (one, other) in both if one != other)
    names = [block.nodes[place].name if place < len(block.nodes) else "what leaves" for block in (a, b)]
    return f"{names[0]}: {_shown(one, other)} against {names[1]}: {_shown(other, one)}"


def _shown(code: Code, against: Code) -> str:
    """What one node is, as far as it differs from another."""
    parts = [str(code[1])] if code[:2] != against[:2] else []
    parts += [f"{name}={value}" for name, value in code[2] if (name, value) not in against[2]]
    parts += [f"reads {' '.join(map(str, c or ()))}" for c in code[3] if c not in against[3]]
    return f"{', '.join(parts):.120}" or "the same, wired otherwise"


def _writes(fold: FoldBlocks, decoder: Decoder) -> Iterator[_Write]:
    """(node, slot, tensor) for every initializer of the lowest block that changes."""
    low = decoder.by_number[fold.blocks[0]]
    sources = [decoder.by_number[b] for b in (fold.sources or fold.blocks[:1])]
    unchanged = [b.number for b in sources] == [low.number] and fold.is_copy
    for i, linear in enumerate(low.linears if not unchanged else ()):
        shares = fold.of(linear.sites[0].roles[0])
        coefficients = [shares[b.number] for b in sources]
        yield *linear.place, _merged([b.linears[i].tensor for b in sources], coefficients)
        for j, bias in enumerate(linear.biases):  # blocks of one kind have them at the same places
            yield *bias, _merged([tensor_at(b.linears[i].biases[j]) for b in sources], coefficients)
    if fold.is_copy and not unchanged:
        for place, other in zip(low.quantised, sources[0].quantised, strict=True):
            yield *place, tensor_at(other)
    if fold.norm_source != low.number:
        for place, other in zip(low.norms, decoder.by_number[fold.norm_source].norms, strict=True):
            yield *place, tensor_at(other)


def _merged(tensors: list[ir.TensorProtocol], coefficients: list[float]) -> ir.TensorProtocol:
    """One weight with coefficient 1 is taken as it lies on disk."""
    terms = [(tensor, share) for tensor, share in zip(tensors, coefficients, strict=True) if share]
    return terms[0][0] if [share for _, share in terms] == [1.0] else combination(tensors, coefficients)


def _apply(graph: ir.Graph, decoder: Decoder, fold: FoldBlocks, writes: list[_Write]) -> Change:
    low, into = decoder.by_number[fold.blocks[0]], decoder.by_number[fold.into]
    for node, slot, tensor in writes:
        set_initializer(graph, node, slot, tensor)
        node.metadata_props[MADE_BY] = FoldWeights.name
    if low is not into:
        for block, number in ((low, into.number), (into, low.number)):
            for node in block.nodes:
                node.metadata_props[BLOCK] = str(number)
    before = sum(_bytes(decoder.by_number[b]) for b in fold.blocks)
    return Change(f"block.{fold.into:02d}", before, _bytes(low), fold.sentence())


def _bytes(block: Block) -> int:
    return sum(v.const_value.nbytes for v in block.own_initializers if v.const_value is not None)
