"""The residual stream of a decoder: the norms that its branches read it by, the way back to it, and its two ends.

    x ──┬── norm ── q, k, v … o ── + ──┬── norm ── gate, up, down ── + ──  …  ── final norm
        └──────────────────────────┘   └───────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from foldrank.edits.base import Branch
from foldrank.graph.linear.gains import LAYOUT, Gain, gain_at, gain_behind, readers_of
from foldrank.graph.linear.norms import norm_parameters
from foldrank.graph.view.branches import Join, join_of, reached
from foldrank.graph.view.decoder import Block, Decoder, Linear

_BIAS = 3
"""Slot of a bias in a norm merged with the sum before it."""


@dataclass(frozen=True)
class Ends:
    """What enters the first block, and the gain of the final norm."""

    entering: ir.Value
    final: Gain


def ends_of(decoder: Decoder) -> Ends | str:
    """The ends of the stream, or why they are not told."""
    if len(decoder.boundaries[0]) != 1:
        names = ", ".join(str(value.name) for value in decoder.boundaries[0]) or "nothing"
        return f"what enters the first block is not one value: {names}"
    behind = [node for node in reached(decoder.boundaries[-1], None) if node not in decoder.inside]
    gains = [gain_at(place) for place in norm_parameters(behind)]
    if len(gains) != 1 or gains[0] is None or not gains[0].of_rms:
        return "what leaves the last block is not normed by one RMS norm"
    return Ends(decoder.boundaries[0][0], gains[0])


def gain_of(linear: Linear, together: Collection[Linear]) -> Gain | str:
    """That of the norm which the linear reads, and `together` alone; or why there is none."""
    where, gain = ", ".join(map(str, linear.sites)), gain_behind(linear.node.inputs[0])
    if gain is None or not gain.of_rms:
        return f"{where}: reads no RMS norm"
    nodes = {other.node for other in together}
    if odd := next((node for node in readers_of(gain.node.outputs[0]) if node not in nodes), None):
        return f"{where}: the norm that it reads is read by {odd.name} ({odd.op_type}) too"
    return gain


def obstacles(graph: ir.Graph, block: Block, branch: Branch, last: Linear, flowing: set[ir.Node]) -> Iterator[str]:
    """What changes a branch's result, the last linear's, before it is added to the stream: all but a bias, a layout and
    a number that multiplies it."""
    join = join_of(graph, block, branch, flowing)
    if not isinstance(join, Join):
        yield f"block {block.number}, {branch}: {join}"
        return
    biased = {node for node, _ in last.biases}
    for node in reached(last.node.outputs, join.node):
        if node not in biased and node.op_type not in ("Shape", *LAYOUT) and not _multiplies(node):
            yield f"{last.sites[0]}: {node.name} ({node.op_type}) stands between it and the stream"
            return
    if "Skip" in join.node.op_type and len(join.node.inputs) > _BIAS and join.node.inputs[_BIAS] is not None:
        yield f"{last.sites[0]}: {join.node.name} adds a bias to it"


def _multiplies(node: ir.Node) -> bool:
    """Whether it multiplies by one number, or divides by it."""
    factors = {"Mul": node.inputs[:2], "Div": node.inputs[1:2]}.get(node.op_type, ())
    numbers = [ir.convenience.get_const_tensor(value) for value in factors if value is not None]
    return any(tensor is not None and tensor.size == 1 for tensor in numbers)
