"""The cache inputs and outputs of what leaves a graph: whoever asks their length asks another's, then they go.

Exporters ask any block's cache for the length of the past, often that of block 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import onnx_ir as ir

from foldrank.graph.dataflow.cache import axes


def readers_left_behind(
    past: Iterable[ir.Value], staying: Iterable[ir.Value], removed: Collection[ir.Node]
) -> Iterator[str]:
    """Names of nodes outside of what is removed that read a leaving cache and cannot ask another. `staying`: cache
    inputs that stay."""
    others = list(staying)
    for value in past:
        outside = [node for node in value.consumers() if node not in removed]
        alone = _stand_in(value, others) is None
        yield from (str(node.name) for node in outside if alone or node.op_type != "Shape")


def take_away(
    graph: ir.Graph, past: Iterable[ir.Value], present: Iterable[ir.Value], staying: Iterable[ir.Value],
    removed: Collection[ir.Node],
) -> None:
    """Let readers outside of what is removed ask another cache, and take these out of the graph's inputs and outputs.
    Call where `readers_left_behind` names none."""
    others, past = list(staying), list(past)
    for value in past:
        other = _stand_in(value, others)
        for use in list(value.uses()):
            if use.node not in removed and other is not None:
                use.node.replace_input_with(use.idx, other)
    values = {id(value) for value in (*past, *present)}
    for ports in (graph.inputs, graph.outputs):
        for i in reversed(range(len(ports))):
            if id(ports[i]) in values:
                ports.pop(i)  # `del` would leave the value marked as a port


def _stand_in(past: ir.Value, staying: Iterable[ir.Value]) -> ir.Value | None:
    """A cache input that stays and is declared of the same shape, symbol by symbol."""
    return next((v for v in staying if None not in axes(v) and axes(v) == axes(past) != ()), None)
