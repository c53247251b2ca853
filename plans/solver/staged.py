"""The program on the model as compressed so far: in few stages all of the layout is chosen at once, then measured.

In a stage the program chooses ranks, widths, branches and folds together for the stage's budget, what was taken before
and is given back included, by predicted losses. What it takes is tried: each change by itself, its block refit, its
cost told to second order (`above.py`), which a few whole measurements correct. What was found scales the prediction of
that site or MLP, and the program chooses again, until it takes nothing that was not tried. Predictions are too low more
often than too high, so what is left untried would hardly be taken. A branch or fold that it still takes is measured on
the whole model. Losses add up only near the present model, so a stage goes part of the way; what it gives is built,
refit and measured whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from foldrank.plans.solver.above import Above
from foldrank.plans.solver.journal import Step
from foldrank.plans.solver.layout import attentions
from foldrank.plans.solver.moves import Move, whole
from foldrank.plans.solver.options import Key, joint, laid_out, moves_of, ranks, stored_alike, widths
from foldrank.plans.solver.program import choose
from foldrank.plans.solver.search import LEAST, Search, State
from foldrank.progress import track

ROUNDS = 16
"""Times that a stage's program chooses at most."""

CLEAR = 1e-4
"""Nats from which on a change tells by how much the second order is off."""

LIMITS = 0.5, 4.0
"""What it may be off by: beyond, something else is."""


@dataclass
class Stages:
    """`count` stages from a state to a limit; `search` tries, measures, builds and keeps the account."""

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
        search, layout, terms = self.search, state.layout, self.search.terms
        fixed = len(layout) * terms.costs.block()
        wholes = {move.key: move for move in terms.wholes(layout, terms.cost(layout) - limit)}
        found = Found(search, state)
        for _ in range(ROUNDS):
            options = [*ranks(terms, layout, search.factors), *widths(terms, layout, search.factors),
                       *joint(terms, layout, wholes, found.added)]
            chosen = choose(options, limit - fixed, attentions(layout) - 1, stored_alike(layout, terms))
            if chosen is None:
                return None
            if not found.look([*moves_of(terms, layout, wholes, chosen)]):
                break
        made = search.build(laid_out(layout, chosen))
        search.steps.append(Step(layout[0].low, "program", terms.cost(layout) - terms.cost(made.layout),
                                 sum(option.nats for option in chosen), made.loss - state.loss, made.loss))
        return made


@dataclass
class Found:
    """What changes of one state were found to add, in nats; `measured`: those that the whole model was run with."""

    search: Search
    state: State
    added: dict[Key, float] = field(default_factory=dict)
    measured: set[Key] = field(default_factory=set)
    _above: Above | None = None
    _off: dict[int, float] = field(default_factory=dict)

    def look(self, moves: Sequence[Move]) -> bool:
        """Try those that were not tried yet; whether there were any. Branches and folds that were are measured."""
        if self.search.effort.checks is None:
            fresh, again = [], [move for move in moves if move.key not in self.measured]
        else:
            fresh = [move for move in moves if move.key not in self.added]
            again = [move for move in moves if whole(move.unit) and move.key in self.added.keys() - self.measured]
        told = self._told(fresh)
        for move in track(again, "program", len(again), self.search.progress):
            told[move.key] = self.search.tried(self.state, move).added
            self.measured.add(move.key)
        for move in (*fresh, *again):
            self.added[move.key] = max(told[move.key], LEAST)
            if move.predicted > 0:
                self.search.factors[move.key] = min(self.added[move.key] / move.predicted, 100.0)
        return bool(fresh or again)

    def _told(self, moves: Sequence[Move]) -> dict[Key, float]:
        """By the second order, corrected."""
        if not moves:
            return {}
        if self._above is None:
            self._above = self.search.above(self.state)
        told = {move.key: self.search.expected(self.state, self._above, move)
                for move in track(moves, "program", len(moves), self.search.progress)}
        if not self._off:
            self._check(moves, told)
        places = sorted(self._off)
        factors = [self._off[place] for place in places]
        return {move.key: told[move.key] * float(np.interp(move.position, places, factors)) for move in moves}

    def _check(self, moves: Sequence[Move], told: dict[Key, float]) -> None:
        """By how much it is off, low and high in the model: the clearest of the changes tried near some places."""
        clear = [move for move in moves if told[move.key] > CLEAR] or moves[:1]
        checks = self.search.effort.checks or 1
        spots = np.linspace(0, len(self.state.layout) - 1, checks)
        chosen = {min(clear, key=lambda m: (abs(m.position - spot), -told[m.key])).key for spot in spots}
        picked = [move for move in clear if move.key in chosen]
        for move in track(picked, "checks", len(picked), self.search.progress):
            measured = self.search.tried(self.state, move).added
            self._off[move.position] = float(np.clip(measured / max(told[move.key], LEAST), *LIMITS))
