"""Roles of a block's linears by what they feed, where names tell nothing.

k and v make the cache; q meets them in the attention; o reads the attention's result. Of what is left, down makes what
leaves the block; what feeds it through an activation is the gate, what feeds it plainly is up. Parts of a packed weight
are told by the Split or Slices behind it. What cannot be told has no role.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from foldrank.graph.dataflow.cache import KVPair
from foldrank.graph.dialects.modules import LINEAR_OPERATORS
from foldrank.graph.linear.parts import PLAIN, parts_of

Roles = dict[ir.Node, tuple[str, ...]]
_ATTENTION = ("GroupQueryAttention", "MultiHeadAttention", "Attention")
_NONE = frozenset[ir.Node]()


@dataclass(frozen=True)
class _Walk:
    """What a walk against the stream met: linears, at which it ends, and every value on the way."""

    linears: frozenset[ir.Node]
    values: frozenset[int]


class _Block:
    def __init__(self, nodes: Sequence[ir.Node], flowing: set[ir.Node], pair: KVPair) -> None:
        self.inside, self.flowing, self.pair = set(nodes), flowing, pair
        self.linears = [node for node in nodes if _is_linear(node, flowing)]
        self.stops = set(self.linears)

    def back(self, values: Iterable[ir.Value | None]) -> _Walk:
        """From these values to the linears that make them."""
        found: set[ir.Node] = set()
        seen: set[int] = set()
        pending = [v for v in values if v is not None]
        while pending:
            value = pending.pop()
            node = value.producer()
            if id(value) in seen or node is None or node not in self.inside:
                continue
            seen.add(id(value))
            if node in self.stops:
                found.add(node)
            else:
                pending.extend(v for v in node.inputs if v is not None)
        return _Walk(frozenset(found), frozenset(seen))

    def ahead(self, nodes: Iterable[ir.Node]) -> tuple[set[ir.Node], bool]:
        """Nodes that the results of these reach, linears included but not passed, and whether they leave the block."""
        found: set[ir.Node] = set()
        leaves = False
        pending = list(nodes)
        while pending:
            for value in pending.pop().outputs:
                readers = value.consumers()
                leaves = leaves or any(r in self.flowing and r not in self.inside for r in readers)
                new = [r for r in readers if r in self.inside and r not in found]
                found.update(new)
                pending.extend(r for r in new if r not in self.stops)
        return found, leaves


def roles_by_flow(nodes: Sequence[ir.Node], flowing: set[ir.Node], pair: KVPair) -> Roles:
    """Roles, in storage order, of the linears among a block's nodes of the stream."""
    block = _Block(nodes, flowing, pair)
    core = _attention(block)
    walks = _queries_keys_values(block, core)
    found = _named_parts(walks)
    results = core & block.stops
    asked = _NONE.union(*(walk.linears for walk in walks.values()))
    if len(results) != 1 or results & asked:
        return {}
    found |= dict.fromkeys(results, ("o",))
    return found | _mlp(block, [node for node in block.linears if node not in asked | results])


def _is_linear(node: ir.Node, flowing: set[ir.Node]) -> bool:
    """A linear map of something of the stream by something that is not."""
    if node.op_type not in LINEAR_OPERATORS or len(node.inputs) < 2:
        return False
    weight = node.inputs[1]
    maker = weight.producer() if weight is not None else None
    return weight is not None and (maker is not None or weight.is_initializer()) and maker not in flowing


def _attention(block: _Block) -> set[ir.Node]:
    """Nodes that see the cache, up to the first linear behind them."""
    reading = [n for v in block.pair.past for n in v.consumers() if n in block.inside and n.op_type != "Shape"]
    return set(reading) | block.ahead(reading)[0]


def _queries_keys_values(block: _Block, core: set[ir.Node]) -> dict[str, _Walk]:
    fused = [node for node in core if node.op_type in _ATTENTION and len(node.inputs) > 2]
    if len(fused) == 1:
        inputs = list(fused[0].inputs[:3])
        if inputs[1] is None and inputs[2] is None and fused[0].op_type == "GroupQueryAttention":
            inputs = inputs[:1] * 3  # packed: the operator itself says that q, k, v lie side by side
        return {role: block.back([value]) for role, value in zip("qkv", inputs, strict=True)}
    k, v = (block.back([value]) for value in block.pair.present)
    cached = k.values | v.values
    entering = [value for node in core - block.stops for value in node.inputs
                if value is not None and value.producer() not in core and id(value) not in cached]
    return {"q": block.back(entering), "k": k, "v": v}


def _named_parts(walks: dict[str, _Walk]) -> Roles:
    """Each linear with the roles that it makes; none where a role is made by several."""
    if any(len(walk.linears) != 1 for walk in walks.values()):
        return {}
    owners = {role: next(iter(walk.linears)) for role, walk in walks.items()}
    found: Roles = {}
    for node in dict.fromkeys(owners.values()):
        roles = tuple(role for role in "qkv" if owners[role] is node)
        if len(roles) == 1 or len({walks[role].values for role in roles}) == 1:
            found[node] = roles
        elif ordered := _by_part(node, {role: walks[role].values for role in roles}):
            found[node] = ordered
    return found


def _by_part(node: ir.Node, seen: dict[str, frozenset[int]]) -> tuple[str, ...] | None:
    """The roles in the order in which the parts of a packed linear lie, each part seen on the way to one role."""
    parts = parts_of(node)
    found = [[role for role, values in seen.items() if id(part) in values] for part in parts]
    names = tuple(roles[0] for roles in found if len(roles) == 1)
    return names if len(parts) == len(seen) == len(set(names)) else None


def _mlp(block: _Block, linears: Sequence[ir.Node]) -> Roles:
    """What is not the attention's: nothing, or down and what feeds it."""
    ends = [node for node in linears if block.ahead([node])[1]]
    if len(ends) != 1:
        return {}
    down = ends[0]
    feeding = block.back([down.inputs[0]])
    if feeding.linears != set(linears) - {down}:
        return {}
    sources = [part for node in linears if node is not down for part in (parts_of(node) or [node.outputs[0]])]
    if len(sources) == 1:
        return {linears[1 - linears.index(down)]: ("up",), down: ("down",)}
    plain = list(_plain_factors(down.inputs[0], {id(v) for v in sources}))
    if len(sources) != 2 or len(plain) != 1:
        return {}
    roles = {id(v): "up" if id(v) == plain[0] else "gate" for v in sources}
    found: Roles = {down: ("down",)}
    for node in linears:
        if node is not down:
            found[node] = tuple(roles[id(part)] for part in (parts_of(node) or [node.outputs[0]]))
    return found


def _plain_factors(product: ir.Value | None, sources: set[int]) -> Iterator[int]:
    """Which sources the product that down reads multiplies without having changed them."""
    node = _last_changed(product)[1]
    for value in node.inputs if node is not None and node.op_type == "Mul" else ():
        met, _ = _last_changed(value, sources)
        if met is not None and id(met) in sources:
            yield id(met)


def _last_changed(value: ir.Value | None, sources: Iterable[int] = ()) -> tuple[ir.Value | None, ir.Node | None]:
    """Against the stream through what changes no number but by a bias: the value met, and what made it."""
    while value is not None and id(value) not in sources:
        node = value.producer()
        if node is None or node.op_type not in PLAIN:
            return value, node
        value = next((v for v in node.inputs if v is not None and not v.is_initializer()), None)
    return value, value.producer() if value is not None else None
