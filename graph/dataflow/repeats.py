"""Blocks by dataflow alone, where names tell nothing: a block is what repeats from one KV pair to the next.

Between the attention of one pair and that of the next the stream narrows in a few places. A place is a boundary when
what lies between it and the same place one pair later has one form for every pair, the first and the last too; the
first such place is taken, as exporters name blocks. Names of nodes and values are never looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import onnx_ir as ir

from foldrank.errors import GraphNotRecognized
from foldrank.graph.dataflow.cache import KVPair
from foldrank.graph.dataflow.flow import Cut, Flow
from foldrank.graph.dataflow.forms import Code, Surroundings, form, in_order

_REMEDY = "export with node names, or with `foldrank export`"


@dataclass(frozen=True)
class _Reading:
    """One way to cut the stream into blocks: the nodes of each."""

    cuts: tuple[Cut, ...]
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class _Misfit:
    """Of one way to cut: how many blocks are not as most are, by how many nodes one of them differs, and how."""

    odd: int
    nodes: int
    text: str

    @property
    def distance(self) -> tuple[int, int]:
        """The less, the nearer."""
        return self.odd, self.nodes


def blocks_by_flow(
    graph: ir.Graph, pairs: Sequence[KVPair], flowing: set[ir.Node], where: str
) -> dict[ir.Node, int]:
    """The block, by its pair's number, of every node of the stream that is in one.

    Raises GraphNotRecognized where nothing repeats, naming the block that differs and how, or where weights stand in
    a place that could belong to either of two neighbours.
    """
    if len(pairs) < 2:
        raise GraphNotRecognized(where, "nodes have no names, and in a graph of one block nothing repeats", _REMEDY)
    flow = Flow(graph, flowing, pairs)
    middle = _aligned(flow, pairs, where)
    starts, ends = flow.cuts(0), flow.cuts(len(pairs))
    readings, misfits = [], []
    for cuts in middle:
        reading = _completed(flow, pairs, cuts, starts, ends)
        if isinstance(reading, _Reading):
            readings.append(reading)
        else:
            misfits.append(reading)
    if not readings:
        nearest = min(misfits, key=lambda misfit: misfit.distance)
        raise GraphNotRecognized(where, f"no block repeats between the KV pairs: {nearest.text}", _REMEDY)
    chosen = min(readings, key=_width)
    _refuse_doubt(flow, chosen, [r for r in readings if _width(r) == _width(chosen)], where)
    blocks = zip(pairs, chosen.blocks, strict=True)
    found = {node: pair.number for pair, nodes in blocks for node in flow.members(nodes)}
    return _with_unneeded(graph, flow, flowing, found)


def _with_unneeded(
    graph: ir.Graph, flow: Flow, flowing: set[ir.Node], found: dict[ir.Node, int]
) -> dict[ir.Node, int]:
    """Nodes too whose values no output needs (shapes, perhaps): of the block that alone makes what they read."""
    known = dict(found)
    for node in graph:
        if node in flowing and node not in flow.place:
            makers = {known.get(p) for v in node.inputs if v is not None and (p := v.producer()) in flowing}
            if len(makers) == 1 and (number := makers.pop()) is not None:
                known[node] = number
    return known


def _width(reading: _Reading) -> tuple[int, int]:
    """How many values cross, between blocks and before the first."""
    return len(reading.cuts[1].crossing), len(reading.cuts[0].crossing)


def _aligned(flow: Flow, pairs: Sequence[KVPair], where: str) -> list[tuple[Cut, ...]]:
    """The narrow places between neighbours, the first between each two, the second, and so on."""
    every = [flow.cuts(i) for i in range(1, len(pairs))]
    if missing := [i for i, cuts in enumerate(every) if not cuts]:
        first, second = (pairs[missing[0] + j].number for j in (0, 1))
        what = f"the attention of KV pair {second} does not depend on that of pair {first}"
        raise GraphNotRecognized(where, what, _REMEDY)
    widths = [min(len(cut.crossing) for cut in cuts) for cuts in every]
    narrow = [[cut for cut in cuts if len(cut.crossing) == width] for cuts, width in zip(every, widths, strict=True)]
    shapes = [(width, len(cuts)) for width, cuts in zip(widths, narrow, strict=True)]
    usual = Counter(shapes).most_common(1)[0][0]
    if odd := [i for i, shape in enumerate(shapes) if shape != usual]:
        i = odd[0]
        crossing = "; ".join(", ".join(str(v.name) for v in cut.crossing) for cut in narrow[i][:3])
        operators = ([cut.last.op_type for cut in every[j]] for j in (i, shapes.index(usual)))
        what = (f"between KV pairs {pairs[i].number} and {pairs[i + 1].number} the stream narrows to {shapes[i][0]} "
                f"values in {shapes[i][1]} places, elsewhere to {usual[0]} in {usual[1]} "
                f"({_words(*_exchanged(*operators)) or 'the same operators'}); nearest: {crossing}")
        raise GraphNotRecognized(where, what, _REMEDY)
    return list(zip(*narrow, strict=True))


def _completed(
    flow: Flow, pairs: Sequence[KVPair], middle: tuple[Cut, ...], starts: Sequence[Cut], ends: Sequence[Cut]
) -> _Reading | _Misfit:
    """These cuts with one before the first block and one behind the last, or what differs between blocks at best."""
    last = len(pairs) - 1
    forms = [_form(flow, a, b, pairs[i + 1], i + 1) for i, (a, b) in enumerate(pairwise(middle))]
    nearest = _Misfit(len(pairs), 0, "the first block and the last are of other sizes than any between")
    for before, after in _outer(flow, middle, starts, ends):
        first = _form(flow, before, middle[0], pairs[0], 0)
        final = _form(flow, middle[-1], after, pairs[last], last)
        misfit = _odd_one([first, *forms, final], pairs)
        if misfit is None:
            cuts = (before, *middle, after)
            return _Reading(cuts, tuple(_inside(flow, a, b, i) for i, (a, b) in enumerate(pairwise(cuts))))
        nearest = min(nearest, misfit, key=lambda m: m.distance)
    return nearest


def _outer(
    flow: Flow, middle: tuple[Cut, ...], starts: Sequence[Cut], ends: Sequence[Cut]
) -> Iterator[tuple[Cut, Cut]]:
    """Places before the first block and behind the last that give both as many nodes as most blocks have, or, where
    there are none, the places that come nearest."""
    sizes = [_inside(flow, a, b, i + 1).bit_count() for i, (a, b) in enumerate(pairwise(middle))]
    firsts = [(_inside(flow, cut, middle[0], 0).bit_count(), cut) for cut in starts]
    lasts = [(_inside(flow, middle[-1], cut, len(middle)).bit_count(), cut) for cut in ends]
    if not sizes:
        yield from ((a, b) for (size, a), (other, b) in product(firsts, lasts) if size == other)
    elif firsts and lasts:
        usual = Counter(sizes).most_common(1)[0][0]
        nearest = [min(abs(size - usual) for size, _ in some) for some in (firsts, lasts)]
        yield from ((a, b) for (size, a), (other, b) in product(firsts, lasts)
                    if [abs(size - usual), abs(other - usual)] == nearest)


def _inside(flow: Flow, start: Cut, stop: Cut, place: int) -> int:
    return (stop.before | flow.made_by(place + 1)) & ~start.before


def _form(flow: Flow, start: Cut, stop: Cut, pair: KVPair, place: int) -> tuple[Code, ...]:
    """The form of a block's stream, without what may differ between kinds of attention: attributes, masks, numbers."""
    inside = frozenset(flow.members(_inside(flow, start, stop, place)))
    entering = _in_order(start, lambda node: node in inside)
    leaving = _in_order(stop, lambda node: node in flow.place and node not in inside)
    block = Surroundings(inside, entering, leaving, pair.past, pair.present)
    order = in_order(block)
    weights = {id(v) for node in order for v in node.inputs
               if v is not None and v.is_initializer() and v.const_value is not None and v.const_value.size > 1}
    return tuple(_loose(code) for code in form(block, order, weights))


def _in_order(cut: Cut, readers: Callable[[ir.Node], bool]) -> tuple[ir.Value, ...]:
    """What crosses, in an order that names do not decide: by how those ahead read it."""
    def key(value: ir.Value) -> tuple[list[tuple[str, int]], str, int]:
        maker = value.producer()
        uses = sorted((use.node.op_type, use.idx) for use in value.uses() if readers(use.node))
        return (uses, maker.op_type if maker is not None else "", value.index() or 0)

    return tuple(sorted(cut.crossing, key=key))


def _loose(code: Code) -> Code:
    operator, inputs = code[1], code[3]
    kept = (c if c is not None and c[0] in ("enters", "past", "node", "own") else ("beside",) for c in inputs)
    return (code[0], operator, (), tuple(kept))


def _odd_one(forms: Sequence[tuple[Code, ...]], pairs: Sequence[KVPair]) -> _Misfit | None:
    """How the first block that is not as most are differs from them."""
    usual, count = Counter(forms).most_common(1)[0]
    if count == len(forms):
        return None
    odd = next(i for i, one in enumerate(forms) if one != usual)
    more, fewer = _exchanged([code[1] for code in forms[odd]], [code[1] for code in usual])
    text = _words(more, fewer) or _first_difference(forms[odd], usual)
    numbers = pairs[odd].number, pairs[forms.index(usual)].number
    return _Misfit(
        len(forms) - count, more.total() + fewer.total(), f"block {numbers[0]} differs from block {numbers[1]}: {text}")


def _exchanged(operators: Iterable[str], usual: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    """Operators too many, and too few."""
    found, wanted = Counter(operators), Counter(usual)
    return found - wanted, wanted - found


def _words(more: Counter[str], fewer: Counter[str]) -> str:
    texts = [f"{n} {op} {word}" for some, word in ((more, "more"), (fewer, "fewer")) for op, n in some.items()]
    return ", ".join(texts[:4])


def _first_difference(odd: tuple[Code, ...], usual: tuple[Code, ...]) -> str:
    one, other = next((a, b) for a, b in zip(odd, usual, strict=True) if a != b)
    return f"{one[1]} of {_read(one)} against {other[1]} of {_read(other)}"


def _read(code: Code) -> str:
    return f"({', '.join(' '.join(map(str, c)) for c in code[3])})"[:120]


def _refuse_doubt(flow: Flow, chosen: _Reading, equal: Sequence[_Reading], where: str) -> None:
    """Two boundaries with weights between them: nothing says whose they are."""
    for other in equal:
        between = flow.members(other.cuts[1].before & ~chosen.cuts[1].before)
        weights = [v.name for node in between for v in node.inputs
                   if v is not None and v.is_initializer() and v.const_value is not None and v.const_value.size > 1
                   and v.const_value.dtype.is_floating_point()]
        if weights:
            places = " or ".join(", ".join(str(v.name) for v in r.cuts[1].crossing) for r in (chosen, other))
            what = f"two ways to part blocks: at {places}; {weights[0]} may belong to either"
            raise GraphNotRecognized(where, what, _REMEDY)
