"""The stream as sets of nodes: what each depends on, and where it narrows between two KV pairs.

A set of nodes is an integer, one bit for each node of the stream in the graph's order. Knows no names of nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from foldrank.graph.dataflow.cache import KVPair


@dataclass(frozen=True)
class Cut:
    """A place between blocks: the nodes before it, and the values that cross it. `last` made the last of them."""

    before: int
    crossing: tuple[ir.Value, ...]
    last: ir.Node


class Flow:
    """What the outputs need of a graph's stream, and how it depends on the KV pairs, in their order."""

    def __init__(self, graph: ir.Graph, flowing: set[ir.Node], pairs: Sequence[KVPair]) -> None:
        self.nodes = _needed(graph, flowing)
        self.place = {node: i for i, node in enumerate(self.nodes)}
        self._before = self._ancestors()
        self._readers = [self._bits(self._readers_of(node)) for node in self.nodes]
        self._attention = [
            self._bits(n for v in pair.past for n in v.consumers()) for pair in pairs]
        self._present = [self._up_to(n for v in pair.present if (n := v.producer()) is not None) for pair in pairs]
        self._feeding = [
            self._up_to(self.members(reading)) | made
            for reading, made in zip(self._attention, self._present, strict=True)]

    def members(self, nodes: int) -> list[ir.Node]:
        """The nodes of a set, in the graph's order."""
        return [self.nodes[i] for i in _ones(nodes)]

    def made_by(self, place: int) -> int:
        """What the presents of the first `place` pairs depend on."""
        found = 0
        for nodes in self._present[:place]:
            found |= nodes
        return found

    def cuts(self, place: int) -> list[Cut]:
        """Every place to cut before the attention of pair `place` and after that of the one before; the number of pairs
        asks for places after the last. In the order of what lies before them."""
        own = self._between(place)
        made = self.made_by(place)
        sets = {node: self._before[node] | made for node in own}
        inside = -1
        for nodes in sets.values():
            inside &= nodes
        open_ends = [i for i, readers in enumerate(self._readers) if readers & ~inside]
        found = [
            Cut(nodes, tuple(self._crossing(nodes, open_ends)), self.nodes[node]) for node, nodes in sets.items()]
        return sorted(found, key=lambda cut: (cut.before.bit_count(), self.place[cut.last]))

    def _between(self, place: int) -> list[int]:
        """Nodes that see the cache of the pair before `place`, not that of its own, and feed its own."""
        if place < len(self._feeding):
            own = list(_ones(self._feeding[place]))
        else:
            feeding = 0
            for nodes in self._feeding:
                feeding |= nodes
            own = [i for i in range(len(self.nodes)) if not feeding >> i & 1]
        seen = self._attention[place - 1] if place else None
        later = self._attention[place] if place < len(self._attention) else 0
        return [i for i in own if (seen is None or self._before[i] & seen) and not self._before[i] & later]

    def _crossing(self, nodes: int, open_ends: Iterable[int]) -> Iterator[ir.Value]:
        for i in open_ends:
            if nodes >> i & 1 and self._readers[i] & ~nodes:
                for value in self.nodes[i].outputs:
                    if self._bits(value.consumers()) & ~nodes:
                        yield value

    def _ancestors(self) -> list[int]:
        """Each node's own bit and those of all it depends on."""
        found: list[int] = []
        for i, node in enumerate(self.nodes):
            nodes = 1 << i
            for value in node.inputs:
                maker = value.producer() if value is not None else None
                if maker is not None and maker in self.place:
                    nodes |= found[self.place[maker]]
            found.append(nodes)
        return found

    def _readers_of(self, node: ir.Node) -> Iterator[ir.Node]:
        return (reader for value in node.outputs for reader in value.consumers())

    def _bits(self, nodes: Iterable[ir.Node]) -> int:
        found = 0
        for node in nodes:
            if (i := self.place.get(node)) is not None:
                found |= 1 << i
        return found

    def _up_to(self, nodes: Iterable[ir.Node]) -> int:
        found = 0
        for node in nodes:
            if (i := self.place.get(node)) is not None:
                found |= self._before[i]
        return found


def _needed(graph: ir.Graph, flowing: set[ir.Node]) -> list[ir.Node]:
    """Nodes of the stream whose values reach an output, in the graph's order."""
    needed: set[ir.Node] = set()
    for node in reversed(graph):
        if node in flowing and any(
            value.is_graph_output() or any(reader in needed for reader in value.consumers()) for value in node.outputs
        ):
            needed.add(node)
    return [node for node in graph if node in needed]


def _ones(bits: int) -> Iterator[int]:
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low
