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
from foldrank.plans.solver.layout import Layout, attentions
from foldrank.plans.solver.options import joint, laid_out, moves_of, ranks, stored_alike, widths
from foldrank.plans.solver.program import choose
from foldrank.plans.solver.search import Search

ROUNDS = 16
"""Times that a stage's program chooses at most."""


@dataclass(frozen=True)
class Outline:
    """A layout that the program chose: the cost it saves, and the nats that it is expected to add."""

    layout: Layout
    saved: float
    nats: float

    def step(self, added: float, loss: float) -> Step:
        """As a step, of measured nats."""
        return Step(self.layout[0].low, "program", self.saved, self.nats, added, loss)


@dataclass
class Stages:
    """`count` stages from a layout to a limit; `search` tries, measures, builds and keeps the account."""

    search: Search
    count: int

    def run(self, layout: Layout, limit: float, planned: Layout | None = None) -> bool:
        """The search reaches what the last stage gives; False where the program finds no way there.

        Goes on from the last stage where the search's journal has one, or builds what was `planned`.
        """
        search, start = self.search, self.search.terms.cost(layout)
        held = planned or search.journal.last()
        done = 0 if held is None else len(search.steps)
        search.begin(held or layout)
        if planned is not None:
            search.steps[-1] = search.steps[-1].measured(search.reached.loss)
        for stage in range(done + 1, self.count + 1):
            outline, before = self._outline(start - (start - limit) * stage / self.count), search.reached.loss
            if outline is None:
                return False
            search.begin(outline.layout)
            search.steps.append(outline.step(search.reached.loss - before, search.reached.loss))
            search.journal.put(outline.layout)
        return True

    def planned(self, start: Layout, limit: float) -> Layout | None:
        """The layout of a single stage, not built: its step has what is expected in the place of what is measured. None
        where the program finds no way."""
        layout = self.search.journal.last()
        if layout is not None:
            return layout
        self.search.begin(start)
        if (outline := self._outline(limit)) is not None:
            layout = outline.layout
            self.search.steps.append(outline.step(outline.nats, outline.nats))
            self.search.journal.put(layout)
        return layout

    def _outline(self, limit: float) -> Outline | None:
        search, state, terms = self.search, self.search.reached, self.search.terms
        layout = state.layout
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
        made = laid_out(layout, chosen)
        return Outline(made, terms.cost(layout) - terms.cost(made), sum(option.nats for option in chosen))
