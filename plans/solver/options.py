"""What the program may choose from at a layout, and the layout that its choice makes. Knows no tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from foldrank.edits.low_rank import rank_limit
from foldrank.plans.solver.fisher import Curve
from foldrank.plans.solver.journal import Factors
from foldrank.plans.solver.layout import GROUPS, Layout, Roles, Span, branch_of, merged
from foldrank.plans.solver.moves import FOLDS, Move, Terms, Unit
from foldrank.plans.solver.program import Cell, Option

GRID = 24
"""Ranks of a site, or widths of an MLP, that the program may choose from, besides the whole: evenly spaced."""

Key = tuple[int, Unit]


def ranks(terms: Terms, layout: Layout, factors: Factors) -> Iterator[Option]:
    """Every site at every rank of the grid, dense too: the predicted curve, scaled by what was found there."""
    for position, span in enumerate(layout):
        for roles in terms.pairable(span):
            shape, curve = terms.shapes[roles], terms.curves[span.source][roles]
            held = span.ranks.get(roles)
            factor = factors.get((span.low, (roles,)), 1.0)
            stored = terms.stored(span.source, roles, held)[span.bits.get(roles)]
            for rank in {None, held, *grid(terms, roles)}:
                nats = factor * (_at(curve, rank) - _at(curve, held)) - stored
                for bits, lost in terms.stored(span.source, roles, rank).items():
                    cost = terms.costs.site(shape, rank, bits)
                    yield Option(((position, roles),), cost, nats + lost, (rank,), bits=bits)


def widths(terms: Terms, layout: Layout, factors: Factors) -> Iterator[Option]:
    """Every MLP without pairs at every width of the grid: the expected loss, scaled by what was found there."""
    for position, span in enumerate(layout):
        known = terms.narrowing(span)
        if known is None:
            continue
        held, factor = span.width or known.whole, factors.get((span.low, "width"), 1.0)
        for width in {held, *_spaced(known.widths), known.whole}:
            made = span.narrow(None if width == known.whole else width)
            if made.width is None and span.width is None:
                continue  # its sites have options of their own
            shapes = {roles: shape for roles, shape in made.shapes(terms.shapes).items() if branch_of(roles) == "mlp"}
            nats = factor * (known.nats[width] - known.nats[held])
            by_bits = [terms.stored(span.source, roles) for roles in shapes]
            for bits in by_bits[0]:
                lost = sum(found[bits] for found in by_bits) * width / known.whole
                yield Option(tuple((position, roles) for roles in shapes),
                             sum(terms.costs.site(shape, None, bits) for shape in shapes.values()), nats + lost,
                             width=made.width, bits=bits)


def joint(terms: Terms, layout: Layout, moves: Mapping[Key, Move], added: Mapping[Key, float]) -> Iterator[Option]:
    """Branches and folds (`Terms.wholes`), at the loss that was found; before that at the predicted one."""
    def cells(position: int) -> list[Cell]:
        return [(position, roles) for roles in layout[position].shapes(terms.shapes)]

    for key, move in moves.items():
        nats = added.get(key, move.predicted)
        if move.unit in FOLDS:
            pair = (move.position, move.position + 1)
            gone, kept = pair if move.unit == "top" else pair[::-1]
            yield Option(tuple(cells(gone)), -terms.costs.block(), nats, (), pair, kept)
        elif isinstance(move.unit, str):
            held = tuple(cell for cell in cells(move.position) if branch_of(cell[1]) == move.unit)
            yield Option(held, 0.0, nats, dropped=move.layout[move.position].dropped)
        else:
            found = tuple(move.layout[move.position].ranks[roles] for roles in move.unit)
            sizes = zip(move.unit, found, strict=True)
            cost = sum(terms.costs.site(terms.shapes[roles], rank) for roles, rank in sizes)
            yield Option(tuple((move.position, roles) for roles in move.unit), cost, nats, found)


def stored_alike(layout: Layout, terms: Terms) -> list[list[Cell]]:
    """Sites of a block that read one input, where there may be few bits."""
    if not terms.rounding:
        return []
    return [[(position, roles) for roles in span.shapes(terms.shapes) if roles[0] in group]
            for position, span in enumerate(layout) for group in GROUPS]


def moves_of(
    terms: Terms, layout: Layout, wholes: Mapping[Key, Move], chosen: Sequence[Option]
) -> Iterator[Move]:
    """What is chosen as moves of their own, those that save something."""
    for option in chosen:
        position = option.cells[0][0]
        span, move = layout[position], None
        if option.fold:
            low = layout[option.fold[0]].low
            move = wholes[low, "top" if option.source == option.fold[1] else "bottom"]
        elif option.dropped is not None:
            move = wholes.get((span.low, option.dropped))  # None where it has left before
        elif len(option.ranks) > 1:
            move = wholes[span.low, tuple(roles for _, roles in option.cells)]
        elif option.width is not None:
            move = terms.step(layout, position, span.narrow(option.width), "width")
        elif option.ranks and option.ranks[0] is not None:
            roles = option.cells[0][1]
            move = terms.step(layout, position, span.with_ranks({roles: option.ranks[0]}), (roles,))
        if move is not None:
            yield move


def grid(terms: Terms, roles: Roles) -> list[int]:
    """At most GRID ranks a pair of this site may have, evenly spaced, the lowest and the highest among them."""
    shape = terms.shapes[roles]
    return _spaced([rank for rank in (1, *range(terms.align, rank_limit(*shape) + 1, terms.align))
                    if terms.allowed(shape, rank)])


def _spaced(sizes: Sequence[int]) -> list[int]:
    if len(sizes) <= GRID:
        return list(sizes)
    return [sizes[round(i * (len(sizes) - 1) / (GRID - 1))] for i in range(GRID)]


def laid_out(layout: Layout, chosen: Sequence[Option]) -> Layout:
    """The layout with the options chosen."""
    spans = [Span(span.low, span.high, span.source, dropped=span.dropped) for span in layout]
    stored: list[dict[Roles, int]] = [{} for _ in layout]
    for option in chosen:
        position = option.cells[0][0]
        if option.dropped is not None:
            spans[position] = spans[position].without(option.dropped)
        elif option.width is not None:
            spans[position] = spans[position].narrow(option.width)
        for (_, roles), rank in zip(option.cells, option.ranks, strict=False):
            if rank is not None:
                spans[position] = spans[position].with_ranks({roles: rank})
        if option.bits is not None:
            stored[position] |= {roles: option.bits for _, roles in option.cells}
    spans = [span.with_bits(bits) for span, bits in zip(spans, stored, strict=True)]
    made = tuple(spans)
    for option in sorted((option for option in chosen if option.fold), key=lambda o: o.fold, reverse=True):
        made = merged(made, option.fold[0], top=option.source == option.fold[1])
    return made


def _at(curve: Curve, rank: int | None) -> float:
    return 0.0 if rank is None else float(curve[rank])
