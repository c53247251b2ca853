"""The program on the model as compressed so far: in few stages all of the layout is chosen at once, then measured.

In a stage the program chooses ranks, widths, branches and folds together for the stage's budget, what was taken before
and is given back included, by predicted losses. What it takes is tried (`found.py`); what was found scales the
prediction of that site or MLP, and the program chooses again, until it takes nothing that was not tried. Predictions
are too low more often than too high, so what is left untried would hardly be taken. Losses add up only near the present
model, so a stage goes part of the way; what it gives is built, refit and measured whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from foldrank.plans.solver.found import Found
from foldrank.plans.solver.journal import Step
from foldrank.plans.solver.layout import attentions
from foldrank.plans.solver.options import joint, laid_out, moves_of, ranks, stored_alike, widths
from foldrank.plans.solver.program import choose
from foldrank.plans.solver.search import Search, State

ROUNDS = 16
"""Times that a stage's program chooses at most."""


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
        found, chosen = Found(search, state), None
        for _ in range(ROUNDS):
            options = [*ranks(terms, layout, search.factors), *widths(terms, layout, search.factors),
                       *joint(terms, layout, wholes, found.added)]
            chosen = choose(options, limit - fixed, attentions(layout) - 1, stored_alike(layout, terms))
            if chosen is None:
                return None
            if not found.look([*moves_of(terms, layout, wholes, chosen)]):
                break
        assert chosen is not None
        made = search.build(laid_out(layout, chosen))
        search.steps.append(Step(layout[0].low, "program", terms.cost(layout) - terms.cost(made.layout),
                                 sum(option.nats for option in chosen), made.loss - state.loss, made.loss))
        return made
