"""The program on the model as compressed so far: in few stages all of the layout is chosen at once, then measured.

In a stage every kind of move open at every place is measured once on the present model (a site lowered, a branch all
but removed, two neighbours folded). What was measured scales the predicted curve of that site; the program then chooses
ranks, removals and folds together for the stage's budget, ranks already given back included. Losses add up only near
the present model, so a stage goes part of the way; what it gives is built, refit and measured whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from foldrank.edits.low_rank import rank_limit
from foldrank.plans.solver.fisher import Curve
from foldrank.plans.solver.journal import Step
from foldrank.plans.solver.layout import Layout, Roles, merged
from foldrank.plans.solver.moves import Terms
from foldrank.plans.solver.program import Option, choose
from foldrank.plans.solver.search import Search, State, Trial
from foldrank.progress import track

GRID = 24
"""Ranks of a site that the program may choose from, besides dense: evenly spaced."""


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
        chosen = choose([*self._ranks(layout), *self._joint(tried)], limit - fixed)
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
            for roles, shape in terms.shapes.items():
                curve, held = terms.curves[span.source][roles], span.ranks.get(roles)
                factor = self.search.factors.get((span.low, (roles,)), 1.0)
                for rank in {None, held, *grid(terms, roles)}:
                    nats = _at(curve, rank) - _at(curve, held)
                    yield Option(((position, roles),), terms.costs.site(shape, rank), factor * nats, (rank,))

    def _joint(self, tried: list[Trial]) -> Iterator[Option]:
        """Branches and folds, at the loss that was measured."""
        terms = self.search.terms
        for move, added in ((trial.move, trial.added) for trial in tried):
            if isinstance(move.unit, str):
                pair = (move.position, move.position + 1)
                gone, kept = pair if move.unit == "top" else pair[::-1]
                yield Option(tuple((gone, roles) for roles in terms.shapes), -terms.costs.block(), added, (), pair,
                             kept)
            elif len(move.unit) > 1:
                ranks = tuple(move.layout[move.position].ranks[roles] for roles in move.unit)
                sizes = zip(move.unit, ranks, strict=True)
                cost = sum(terms.costs.site(terms.shapes[roles], rank) for roles, rank in sizes)
                yield Option(tuple((move.position, roles) for roles in move.unit), cost, added, ranks)


def grid(terms: Terms, roles: Roles) -> list[int]:
    """At most GRID ranks a pair of this site may have, evenly spaced, the lowest and the highest among them."""
    shape = terms.shapes[roles]
    ranks = [rank for rank in (1, *range(terms.align, rank_limit(*shape) + 1, terms.align))
             if terms.allowed(shape, rank)]
    if len(ranks) <= GRID:
        return ranks
    return [ranks[round(i * (len(ranks) - 1) / (GRID - 1))] for i in range(GRID)]


def laid_out(layout: Layout, chosen: Sequence[Option]) -> Layout:
    """The layout with the options chosen."""
    ranks: list[dict[Roles, int]] = [{} for _ in layout]
    for option in chosen:
        for (position, roles), rank in zip(option.cells, option.ranks, strict=False):
            if rank is not None:
                ranks[position][roles] = rank
    made = tuple(replace(span, ranks=held) for span, held in zip(layout, ranks, strict=True))
    for option in sorted((option for option in chosen if option.fold), key=lambda o: o.fold, reverse=True):
        made = merged(made, option.fold[0], top=option.source == option.fold[1])
    return made


def _at(curve: Curve, rank: int | None) -> float:
    return 0.0 if rank is None else float(curve[rank])
