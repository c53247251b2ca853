"""Nodes in the order in which they can run. ONNX asks for it, ONNX Runtime does not, and some tools do not keep it.

Works on protobuf, in time linear in nodes and inputs, before anything else of a stranger's graph is believed.
"""

from __future__ import annotations

from collections import deque

import onnx


def put_in_order(graph: onnx.GraphProto) -> None:
    """Sort a graph's nodes and those of the graphs inside them, unless they are in order or cannot be."""
    for node in graph.node:
        for inner in _inner(node):
            put_in_order(inner)
    reads = [_reads(node) for node in graph.node]
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = [{maker[name] for name in names if name in maker} for names in reads]
    if all(max(need, default=-1) < index for index, need in enumerate(needs)):
        return
    order = _sorted(needs)
    if len(order) == len(needs):
        nodes = [onnx.NodeProto.FromString(graph.node[index].SerializeToString()) for index in order]
        del graph.node[:]
        graph.node.extend(nodes)


def _sorted(needs: list[set[int]]) -> list[int]:
    """Indices so that each comes after those it needs; shorter than `needs` where there is a cycle."""
    readers: list[list[int]] = [[] for _ in needs]
    for index, need in enumerate(needs):
        for made in need:
            readers[made].append(index)
    left = [len(need) for need in needs]
    ready = deque(index for index, count in enumerate(left) if count == 0)
    order: list[int] = []
    while ready:
        order.append(index := ready.popleft())
        for reader in readers[index]:
            left[reader] -= 1
            if left[reader] == 0:
                ready.append(reader)
    return order


def _inner(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [graph for a in node.attribute for graph in [*a.graphs, *([a.g] if a.HasField("g") else [])]]


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names a node reads, those that its inner graphs take from around them among them."""
    found = {name for name in node.input if name}
    for graph in _inner(node):
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        own.update(name for inner in graph.node for name in inner.output)
        taken = set().union(*(_reads(inner) for inner in graph.node)) | {v.name for v in graph.output}
        found |= taken - own
    return found
