"""Remove blocks: connect the values that enter a run of them to the readers of the values that leave it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from foldrank.errors import PassRefused
from foldrank.graph.view.decoder import Decoder, View
from foldrank.passes.base import Change, Effect, GraphPass, Receipt
from foldrank.passes.cache_ports import readers_left_behind, take_away


@dataclass(frozen=True)
class DropBlocks(GraphPass):
    """Take the named blocks out of the graph, their KV inputs and outputs with them."""

    leaving: tuple[int, ...]
    name: ClassVar[str] = "drop_blocks"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Re-wire and remove. Raises PassRefused where a block is missing, is the first, or something else reads it."""
        decoder = (view or View(model)).decoder
        if reasons := list(self._misfits(decoder)):
            raise PassRefused(self.name, reasons, "plan again without removing these blocks")
        gone = [decoder.by_number[number] for number in self.leaving]
        for first, last in _runs(sorted(decoder.position(block.number) for block in gone)):
            _bypass(decoder, first, last)
        removed = {node for block in gone for node in block.nodes}
        past, present = ([v for block in gone for v in getattr(block, port)] for port in ("past", "present"))
        take_away(model.graph, past, present, self._staying(decoder), removed)
        model.graph.remove(removed, safe=True)
        return Receipt(self.name, self.effect, tuple(
            Change(f"block.{b.number:02d}", 0, 0, f"left, with {len(b.nodes)} nodes"
                   + (f" and KV pair {b.kv.number}" if b.kv is not None else ""))
            for b in gone
        ))

    def _misfits(self, decoder: Decoder) -> Iterator[str]:
        if missing := [b for b in self.leaving if b not in decoder.by_number]:
            yield f"block {missing[0]} is not in the graph"
            return
        if not decoder.whole:
            yield "some block has only one branch, so what enters a block does not stand for what leaves it"
            return
        for number in self.leaving:
            block = decoder.by_number[number]
            if decoder.position(number) == 0:
                yield f"block {number} is the first in the graph, whose input has another form"
            members = set(block.nodes)
            if reader := next(readers_left_behind(block.past, self._staying(decoder), members), None):
                yield f"the cache of block {number} is read outside the block, by {reader}"
            made = [v for node in block.nodes for v in node.outputs if v.is_graph_output()]
            if others := [v.name for v in made if v not in block.present]:
                yield f"block {number} makes the output {others[0]}"
            passed_on = {id(v) for v in decoder.boundaries[decoder.position(number) + 1]}
            if needed := [(v, n) for node in block.nodes for v in node.outputs if id(v) not in passed_on
                          for n in v.consumers() if n not in members]:
                yield f"{needed[0][1].name} outside of block {number} reads the shape of its {needed[0][0].name}"

    def _staying(self, decoder: Decoder) -> list[ir.Value]:
        """Cache inputs of the blocks that stay."""
        return [value for block in decoder.blocks if block.number not in self.leaving for value in block.past]


def _runs(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring positions as (first, last)."""
    start = 0
    for i, position in enumerate(positions):
        if i + 1 == len(positions) or positions[i + 1] != position + 1:
            yield positions[start], position
            start = i + 1


def _bypass(decoder: Decoder, first: int, last: int) -> None:
    """Readers of what leaves block `last` read what enters block `first`."""
    inside = {node for block in decoder.blocks[first : last + 1] for node in block.nodes}
    for old, new in zip(decoder.boundaries[last + 1], decoder.boundaries[first], strict=True):
        for use in list(old.uses()):
            if use.node not in inside:
                use.node.replace_input_with(use.idx, new)
