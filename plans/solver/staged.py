"""The program on the model as compressed so far: in few stages all of the layout is chosen at once, then measured.

In a stage every kind of move open at every place is measured once on the present model (a site lowered, an MLP
narrowed, a branch dropped, two neighbours folded). What was measured scales the predicted curve of that site or MLP;
the program then chooses ranks, widths, branches and folds together for the stage's budget, what was taken before and is
given back included. Losses add up only near the present model, so a stage goes part of the way; what it gives is built,
refit and measured whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from foldrank.edits.low_rank import rank_limit
from foldrank.plans.solver.fisher import Curve
from foldrank.plans.solver.journal import Step
from foldrank.plans.solver.layout import Layout, Roles, Span, attentions, branch_of, merged
from foldrank.plans.solver.moves import FOLDS, Terms
from foldrank.plans.solver.program import Cell, Option, choose
from foldrank.plans.solver.search import Search, State, Trial
from foldrank.progress import track

GRID = 24
"""Ranks of a site, or widths of an MLP, that the program may choose from, besides the whole: evenly spaced."""


@dataclass
class Stages:
    """`count` stages from a state to a limit; `search` measures, builds and keeps the account."""

    search: Search
    count: int

    def run(self, state: State, limit: float) -> State | None:
        """The state after the last stage; None where the program finds no way there.

        Goes on from the last stage where the search's journal has one.
        """
        start, held = self.search.terms.cost(state.layout), self.search.journal.last()
        done = 0
        if held is not None:
            state, done = self.search.build(held), len(self.search.steps)
        for stage in range(done + 1, self.count + 1):
            reached = start - (start - limit) * stage / self.count
            made = self._stage(state, reached)
            if made is None:
                return None
            state = made
            self.search.journal.put(state.layout)
        return state

    def _stage(self, state: State, limit: float) -> State | None:
        search, layout = self.search, state.layout
        probes = search.terms.probes(layout, search.terms.cost(layout) - limit)
        tried = [search.tried(state, move) for move in track(probes, "program", len(probes), search.progress)]
        fixed = len(layout) * search.terms.costs.block()
        options = [*self._ranks(layout), *self._widths(layout), *self._joint(layout, tried)]
        chosen = choose(options, limit - fixed, attentions(layout) - 1)
        if chosen is None:
            return None
        made = search.build(laid_out(layout, chosen))
        search.steps.append(Step(layout[0].low, "program", search.terms.cost(layout) - search.terms.cost(made.layout),
                                 sum(option.nats for option in chosen), made.loss - state.loss, made.loss))
        return made

    def _ranks(self, layout: Layout) -> Iterator[Option]:
        """Every site at every rank of the grid, dense too: the predicted curve, scaled by what was measured there."""
        terms = self.search.terms
        for position, span in enumerate(layout):
            for roles in terms.pairable(span):
                shape, curve = terms.shapes[roles], terms.curves[span.source][roles]
                held = span.ranks.get(roles)
                factor = self.search.factors.get((span.low, (roles,)), 1.0)
                for rank in {None, held, *grid(terms, roles)}:
                    nats = _at(curve, rank) - _at(curve, held)
                    yield Option(((position, roles),), terms.costs.site(shape, rank), factor * nats, (rank,))

    def _widths(self, layout: Layout) -> Iterator[Option]:
        """Every MLP without pairs at every width of the grid: the expected loss, scaled by what was measured there."""
        terms = self.search.terms
        for position, span in enumerate(layout):
            known = terms.narrowing(span)
            if known is None:
                continue
            held, factor = span.width or known.whole, self.search.factors.get((span.low, "width"), 1.0)
            for width in {held, *_spaced(known.widths), known.whole}:
                made = span.narrow(None if width == known.whole else width)
                if made.width is None and span.width is None:
                    continue  # its sites have options of their own
                shapes = {roles: shape for roles, shape in made.shapes(terms.shapes).items()
                          if branch_of(roles) == "mlp"}
                nats = known.nats[width] - known.nats[held]
                yield Option(tuple((position, roles) for roles in shapes),
                             sum(terms.costs.site(shape, None) for shape in shapes.values()), factor * nats,
                             width=made.width)

    def _joint(self, layout: Layout, tried: list[Trial]) -> Iterator[Option]:
        """Branches and folds, at the loss that was measured."""
        terms = self.search.terms

        def cells(position: int) -> list[Cell]:
            return [(position, roles) for roles in layout[position].shapes(terms.shapes)]

        for move, added in ((trial.move, trial.added) for trial in tried):
            if move.unit in FOLDS:
                pair = (move.position, move.position + 1)
                gone, kept = pair if move.unit == "top" else pair[::-1]
                yield Option(tuple(cells(gone)), -terms.costs.block(), added, (), pair, kept)
            elif (branch := move.layout[move.position].dropped) is not None and move.unit == branch:
                held = tuple(cell for cell in cells(move.position) if branch_of(cell[1]) == branch)
                yield Option(held, 0.0, added, dropped=branch)
            elif not isinstance(move.unit, str) and len(move.unit) > 1:
                ranks = tuple(move.layout[move.position].ranks[roles] for roles in move.unit)
                sizes = zip(move.unit, ranks, strict=True)
                cost = sum(terms.costs.site(terms.shapes[roles], rank) for roles, rank in sizes)
                yield Option(tuple((move.position, roles) for roles in move.unit), cost, added, ranks)


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
    for option in chosen:
        position = option.cells[0][0]
        if option.dropped is not None:
            spans[position] = spans[position].without(option.dropped)
        elif option.width is not None:
            spans[position] = spans[position].narrow(option.width)
        for (_, roles), rank in zip(option.cells, option.ranks, strict=False):
            if rank is not None:
                spans[position] = spans[position].with_ranks({roles: rank})
    made = tuple(spans)
    for option in sorted((option for option in chosen if option.fold), key=lambda o: o.fold, reverse=True):
        made = merged(made, option.fold[0], top=option.source == option.fold[1])
    return made


def _at(curve: Curve, rank: int | None) -> float:
    return 0.0 if rank is None else float(curve[rank])
