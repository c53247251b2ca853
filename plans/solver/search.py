"""Progressive measured allocation: again and again the move that costs least measured loss for what it saves.

Predicted losses only shortlist. Every shortlisted move is built (its block refit on the Gram windows) and measured on
the model as compressed so far: on few windows, then the best of them on all, with everything above refit too. What was
measured corrects the predictions of like moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from foldrank.freed import give_back
from foldrank.plans.models.block import Block
from foldrank.plans.solver.above import Above
from foldrank.plans.solver.block_refit import Fitted, refit
from foldrank.plans.solver.journal import Factors, Journal, Step
from foldrank.plans.solver.layout import Layout, attentions, with_span
from foldrank.plans.solver.meter import Meter
from foldrank.plans.solver.moves import Move, Terms, Unit
from foldrank.plans.solver.original import Original
from foldrank.progress import SILENT, Progress

LEAST = 1e-5
"""Nats below which a loss is noise: of two free moves the one that saves more is better."""

HOPELESS = 3.0
"""A trial whose loss for what it saves is so many times the best one's is not built whole: it would hardly be taken."""

CLOSE = 1.3
"""A finalist whose loss for what it saves is within this factor of the best one's is taken in the same step."""


@dataclass(frozen=True)
class Effort:
    """Moves measured in the first step and in each later one; those of them measured on all windows.

    `strides`: one descent for each, whose steps save at least that share of what is to be saved in all. Short steps are
    greedy; long ones find what pays only as a whole, such as a branch that all but leaves. `stages`: one run of the
    program for each, in so many stages (`staged.py`). The one that ends with the lowest measured loss wins. Without
    `strides` a descent starts only where no program finds a way.
    `exchanges`: at the end, so often at most it is tried to take a rank from one pair and give it to another.
    `checks`: changes of a stage that are measured on the whole model, to correct what the others are told to cost
    (`found.py`); None: all are. `every`: one of so many windows is what the result is fit to. `built`: whether the
    layout of a single stage is fit and measured on the search's windows; if not, only the result is, once it is fit.
    """

    first: int
    later: int
    finalists: int
    strides: tuple[float, ...]
    stages: tuple[int, ...] = ()
    exchanges: int = 0
    checks: int | None = None
    every: int = 1
    built: bool = True


@dataclass(frozen=True)
class State:
    """A layout and its model. Inputs [N, T, C] of every block, on the Gram windows and on the measuring ones."""

    layout: Layout
    fitted: tuple[Fitted, ...]
    inputs: tuple[Tensor, ...]
    measured: tuple[Tensor, ...]
    loss: float

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of the model, lowest first."""
        return tuple(fitted.block for fitted in self.fitted)


@dataclass(frozen=True)
class Trial:
    """A move as measured: the loss it adds; of a finalist the whole model, refit from the move up."""

    move: Move
    added: float
    made: State | None = None

    @property
    def score(self) -> float:
        """Added nats for each unit of cost saved."""
        return max(self.added, LEAST) / self.move.saved


@dataclass
class Search:
    """Descends from a dense layout to a budget, in steps that save `stride` of what is to be saved or more."""

    original: Original
    meter: Meter
    terms: Terms
    effort: Effort
    stride: float
    progress: Progress = SILENT
    journal: Journal = field(default_factory=Journal)
    _reached: State | None = None

    @property
    def reached(self) -> State:
        """Where it has come to. It alone holds that: a state of a model of 135 million numbers is 1.4 GB."""
        assert self._reached is not None, "a search begins with `begin`"
        return self._reached

    @reached.setter
    def reached(self, state: State) -> None:
        self._reached = state

    def begin(self, layout: Layout) -> None:
        """Build a layout in the place of what was reached, which is let go first."""
        self._reached = None
        give_back()
        self.reached = self.build(layout)

    @property
    def steps(self) -> list[Step]:
        """What was taken so far."""
        return self.journal.steps

    @property
    def factors(self) -> Factors:
        """Loss measured over loss predicted, by kind and place of a move."""
        return self.journal.factors

    def run(self, layout: Layout, limit: float) -> None:
        """Go on until the cost is at most `limit`: the last step may save too much, which `improving.filled`
        spends. Raises ValueError where no moves lead there.

        Goes on from the last step where the journal has one.
        """
        self.begin(self.journal.last() or layout)
        start = self.terms.cost(layout)
        need = self.terms.cost(self.reached.layout) - limit
        self.progress.start("auto", 100, round(100 * (1 - max(need, 0.0) / max(start - limit, 1e-9))))
        while (need := self.terms.cost(self.reached.layout) - limit) > 0:
            moves = self.terms.moves(self.reached.layout, need)
            if not moves:
                raise ValueError(f"{limit:.6g} is below the {limit + need:.6g} of the smallest layout there is")
            before = need
            self.reached = self._step(self.reached, moves, need, start - limit)
            self.journal.put(self.reached.layout)
            self.progress.advance("auto", round(100 * (before - self.terms.cost(self.reached.layout) + limit)
                                                / max(start - limit, 1e-9)))
        self.progress.finish("auto")

    def build(self, layout: Layout, base: State | None = None, start: int = 0) -> State:
        """Refit every block of a layout from position `start` up; what lies below is that of `base`."""
        fitted = list(base.fitted[:start]) if base else []
        inputs = list(base.inputs[: start + 1]) if base else [self.original.states[0]]
        for span in layout[start:]:
            fitted.append(refit(self.original, span, inputs[len(fitted)]))
            inputs[len(fitted):] = [fitted[-1].output]
        blocks = [f.block for f in fitted]
        measured = self.meter.inputs(blocks, base.measured[: start + 1] if base else ())
        dense = all(span.untouched for span in layout)  # the original itself
        loss = 0.0 if dense else self.meter.loss(measured[-1], blocks[-1:])
        return State(layout, tuple(fitted), tuple(inputs[:-1]), measured, loss)

    def _step(self, state: State, moves: Sequence[Move], need: float, whole: float) -> State:
        few = self.meter.few(max(1, len(self.meter.wanted) // 4))
        known = self.loss(state, few)
        trials = [self._try(state, move, few, known) for move in self._shortlist(moves, need, whole)]
        best = sorted(trials, key=lambda trial: trial.score)[: self.effort.finalists]
        best = [trial for trial in best if trial.score <= HOPELESS * best[0].score]
        finalists = sorted((self._again(state, trial) for trial in best), key=lambda trial: trial.score)
        return self._taken(state, finalists, need)

    def _shortlist(self, moves: Sequence[Move], need: float, whole: float) -> list[Move]:
        """The most promising, at most two of a kind at one place; by block, since trials of a block share work."""
        least = min(need, whole * self.stride)
        long = [move for move in moves if move.saved >= least] or moves
        ranked = sorted(long, key=lambda move: self._expected(move) / move.saved)
        counts: dict[tuple[int, Unit], int] = {}
        chosen: list[Move] = []
        for move in ranked:
            counts[move.key] = counts.get(move.key, 0) + 1
            if counts[move.key] <= 2:
                chosen.append(move)
        return sorted(chosen[: self.effort.later if self.steps else self.effort.first], key=lambda m: m.position)

    def _expected(self, move: Move) -> float:
        return max(move.predicted * self.factors.get(move.key, 1.0), LEAST)

    def tried(self, state: State, move: Move, meter: Meter | None = None, known: float | None = None) -> Trial:
        """The loss a move adds with only its own block refit, on all measuring windows, or those of `meter`, on which
        the state's is `known`. A quarter of them ranks moves well enough to shortlist, but what the program builds on
        was a fifth worse in nats with it (specs-300k, 0.8)."""
        return self._try(state, move, meter or self.meter, state.loss if known is None else known)

    def loss(self, state: State, meter: Meter) -> float:
        """Of a state on the windows of `meter`."""
        return meter.loss(state.measured[-1][meter.windows], state.blocks[-1:])

    def above(self, state: State) -> Above:
        """What a change of a block's output costs in this state. Cost: a backward pass, unless it is the original."""
        meter, high = self.meter, [span.high for span in state.layout]
        outputs = (*state.measured[1:], meter.decoder.run(state.blocks[-1], state.measured[-1]))
        slopes = meter.slopes(state.blocks) if self.steps else ()
        return Above(outputs, slopes, [self.original.streams[number] for number in high])

    def expected(self, state: State, above: Above, move: Move) -> float:
        """The nats that a move adds, to second order: its block is refit and run, nothing else."""
        fitted = self._refit(state, move)
        output = self.meter.decoder.run(fitted.block, state.measured[move.position])
        return above.added(move.position + move.span - 1, output)

    def _refit(self, state: State, move: Move) -> Fitted:
        at = move.position
        like = (state.layout[at], state.fitted[at])
        return refit(self.original, move.layout[at], state.inputs[at], like=like)

    def _try(self, state: State, move: Move, meter: Meter, known: float) -> Trial:
        fitted = self._refit(state, move)
        above = state.blocks[move.position + move.span :]
        hidden = state.measured[move.position][meter.windows]
        added = meter.loss(hidden, (fitted.block, *above)) - known
        if move.predicted > 0:
            self.factors[move.key] = min(max(added, LEAST) / move.predicted, 100.0)
        return Trial(move, added)

    def _again(self, state: State, trial: Trial) -> Trial:
        made = self.build(trial.move.layout, state, trial.move.position)
        return Trial(trial.move, made.loss - state.loss, made)

    def _taken(self, state: State, finalists: Sequence[Trial], need: float) -> State:
        """The best, and others nearly as good that lower other blocks and are needed too; then all is refit."""
        best, layout = finalists[0], finalists[0].move.layout
        taken, saved = [best], best.move.saved
        for trial in finalists[1:] if best.move.span == 1 else ():
            move = trial.move
            apart = all(move.position != other.move.position for other in taken)
            if move.span > 1 or not apart or trial.score > CLOSE * best.score or saved + move.saved > need:
                continue
            made = with_span(layout, move.position, move.layout[move.position])
            if attentions(made):
                layout = made
                taken.append(trial)
                saved += move.saved
        after = best.made
        if after is None or len(taken) > 1:
            after = self.build(layout, state, min(trial.move.position for trial in taken))
        for trial in taken:
            self.steps.append(Step(trial.move.key[0], name(trial.move.unit), trial.move.saved, trial.move.predicted,
                                   trial.added, after.loss))
        return after


def name(unit: Unit) -> str:
    """A unit as the report writes it."""
    return unit if isinstance(unit, str) else "+".join("_".join(roles) for roles in unit)
