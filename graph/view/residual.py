"""The residual stream of a decoder: the norms that its branches read it by, the way back to it, and its two ends.

    x ──┬── norm ── q, k, v … o ── + ──┬── norm ── gate, up, down ── + ──  …  ── final norm
        └──────────────────────────┘   └───────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from foldrank.edits.base import BRANCHES, LAST, Branch
from foldrank.graph.dataflow.membership import stream
from foldrank.graph.linear.gains import LAYOUT, Gain, gain_at, gain_behind, readers_of
from foldrank.graph.linear.layer_norms import LayerNorm, layer_norm, layer_norm_behind
from foldrank.graph.linear.linears import tensor_at
from foldrank.graph.linear.norms import NORMS, norm_parameters
from foldrank.graph.view.branches import Join, join_of, reached
from foldrank.graph.view.decoder import Block, Decoder, Linear
from foldrank.graph.view.skip_norms import BIAS, SUM


@dataclass(frozen=True)
class Way:
    """A branch's way from the stream and back: linears that read its norm, all of its block that may read it too, and
    the one that writes to the stream."""

    readers: tuple[Linear, ...]
    together: tuple[Linear, ...]
    last: Linear


@dataclass(frozen=True)
class Ends:
    """What enters the first block, and the gain of the final norm."""

    entering: ir.Value
    final: Gain


def ends_of(decoder: Decoder) -> Ends | str:
    """The ends of the stream, or why they are not told."""
    if len(decoder.boundaries[0]) != 1:
        return _several(decoder.boundaries[0])
    behind = [node for node in reached(decoder.boundaries[-1], None) if node not in decoder.inside]
    gains = [gain_at(place) for place in norm_parameters(behind)]
    if len(gains) != 1 or gains[0] is None or not gains[0].of_rms:
        return "what leaves the last block is not normed by one RMS norm"
    return Ends(decoder.boundaries[0][0], gains[0])


def ways(
    graph: ir.Graph, decoder: Decoder, branches: Iterable[tuple[int, Branch]], width: int
) -> tuple[list[Way], list[str]]:
    """The ways of these branches in a stream so wide, and what stands against a change of all that is on them."""
    flowing = stream(graph, (value for block in decoder.blocks for value in block.past))
    found, reasons = list[Way](), list[str]()
    for number, branch in branches:
        if (block := decoder.by_number.get(number)) is None:
            reasons.append(f"block {number} is not in the graph")
            continue
        way = _way(block, branch)
        if way is None:
            reasons.append(f"block {number}: its {branch} is not made of plain matrices")
            continue
        found.append(way)
        last = way.last
        reasons += obstacles(graph, block, branch, last, flowing)
        if any(tensor_at(place).shape.numpy() != (width,) for place in last.biases):
            reasons.append(f"{last.sites[0]}: its bias is not one of {width} numbers")
        odd = [linear for linear in way.readers if linear.shape[0] != width] + [last] * (last.shape[1] != width)
        reasons += [f"{one.sites[0]}: is {list(one.shape)}, of no stream of {width} channels" for one in odd]
    return found, reasons


def readers_in(block: Block) -> tuple[Linear, ...]:
    """Linears that write nothing to the stream."""
    return tuple(linear for linear in block.linears if not set(linear.roles) & set(LAST.values()))


def _way(block: Block, branch: Branch) -> Way | None:
    """None where the branch is not made of plain matrices."""
    together = readers_in(block)
    readers = tuple(linear for linear in together if set(linear.roles) & set(BRANCHES[branch]))
    last, there = block.by_role.get(LAST[branch]), {role for linear in readers for role in linear.roles}
    if last is None or len(last.roles) > 1 or not there >= set(BRANCHES[branch]) - {"gate", LAST[branch]}:
        return None
    return Way(readers, together, last)


def gain_of(linear: Linear, together: Collection[Linear]) -> Gain | str:
    """That of the norm which the linear reads, and `together` alone; or why there is none."""
    where, gain = ", ".join(map(str, linear.sites)), gain_behind(linear.node.inputs[0])
    if gain is None or not gain.of_rms:
        return f"{where}: reads no RMS norm"
    nodes = {other.node for other in together}
    if odd := next((node for node in readers_of(gain.node.outputs[0]) if node not in nodes), None):
        return f"{where}: the norm that it reads is read by {odd.name} ({odd.op_type}) too"
    return gain


def layer_norm_of(linear: Linear, together: Collection[Linear]) -> LayerNorm | str:
    """The LayerNorm that the linear reads, and `together` alone; or why there is none."""
    where, norm = ", ".join(map(str, linear.sites)), layer_norm_behind(linear.node.inputs[0])
    if norm is None:
        gain = gain_behind(linear.node.inputs[0])
        return f"{where}: reads {'an RMS norm, not a' if gain is not None and gain.of_rms else 'no'} LayerNorm"
    nodes = {other.node for other in together}
    if odd := next((node for node in readers_of(norm.result) if node not in nodes), None):
        return f"{where}: the norm that it reads is read by {odd.name} ({odd.op_type}) too"
    return norm


def final_layer_norm(decoder: Decoder) -> LayerNorm | str:
    """The one LayerNorm behind the blocks, or why it is not told."""
    behind = [node for node in reached(decoder.boundaries[-1], None) if node not in decoder.inside]
    places = [(node, slot) for node, slot in norm_parameters(behind) if slot == NORMS.get(node.op_type, (slot,))[0]]
    norms = [layer_norm(gain) for place in places if (gain := gain_at(place)) is not None]
    if len(norms) != 1 or norms[0] is None:
        return "what leaves the last block is not normed by one LayerNorm"
    return norms[0]


def entrance_of(decoder: Decoder) -> ir.Value | ir.Node | str:
    """What enters the first block: one value, or the merged norm that adds two to begin with; or why it is not told."""
    entering = decoder.boundaries[0]
    readers = {node for value in entering for node in value.consumers() if node in decoder.inside}
    if len(readers) == 1 and (first := readers.pop()).op_type in BIAS:
        return first
    return entering[0] if len(entering) == 1 else _several(entering)


def strangers(
    graph: ir.Graph, decoder: Decoder, entrance: ir.Value | ir.Node, norms: Collection[LayerNorm]
) -> Iterator[ir.Node]:
    """Nodes of the blocks that read the stream itself, but for these norms, and sums with what a branch gives."""
    reading = {node for norm in norms for node in norm.reading}
    begun = [entrance] if isinstance(entrance, ir.Value) else entrance.outputs[SUM:]
    lasts = (block.by_role[role] for block in decoder.blocks for role in LAST.values() if role in block.by_role)
    flowing, given = {id(v) for v in begun}, {id(v) for linear in lasts for v in linear.node.outputs}
    for node in graph:
        own, its = ([value for value in node.inputs if id(value) in found] for found in (flowing, given))
        if not own and its and node.op_type in (*LAYOUT, "Add", "Mul", "Div"):
            given.update(id(value) for value in node.outputs)
        if not own or node is entrance or node not in decoder.inside or node.op_type in ("Shape", "Size"):
            continue
        if node.op_type in LAYOUT or (node.op_type == "Add" and its):
            flowing.update(id(value) for value in node.outputs)
        elif node in reading and (its or node.op_type not in BIAS):
            flowing.update(id(value) for value in node.outputs[SUM:])
        else:
            yield node


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
    bias = BIAS.get(join.node.op_type)
    if bias is not None and any(value is not None for value in join.node.inputs[bias:]):
        yield f"{last.sites[0]}: {join.node.name} adds a bias to it"


def _several(entering: Collection[ir.Value]) -> str:
    names = ", ".join(str(value.name) for value in entering) or "nothing"
    return f"what enters the first block is not one value: {names}"


def _multiplies(node: ir.Node) -> bool:
    """Whether it multiplies by one number, or divides by it."""
    factors = {"Mul": node.inputs[:2], "Div": node.inputs[1:2]}.get(node.op_type, ())
    numbers = [ir.convenience.get_const_tensor(value) for value in factors if value is not None]
    return any(tensor is not None and tensor.size == 1 for tensor in numbers)
