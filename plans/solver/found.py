"""What changes of one state cost, each by itself: few are measured, more are told, and of the rest neighbours tell.

A change is tried by refitting its block, its cost told to second order (`above.py`), which a few whole measurements
correct. Of a tall model not every block is tried: the same site or MLP of those between is taken to be off from what
was predicted by as much as its neighbours. A branch or fold that is asked for again is measured on the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from foldrank.plans.solver.above import Above
from foldrank.plans.solver.moves import Move, Unit, whole
from foldrank.plans.solver.options import Key
from foldrank.plans.solver.search import LEAST, Search, State
from foldrank.progress import track

TALL = 10
"""Blocks of a model in which each is tried; in one of so many times as many, every so manieth."""

CLEAR = 1e-4
"""Nats from which on a change tells by how much the second order is off."""

CHECKED = 3
"""Checks run on every so manieth of the measuring windows: a clear change shows on few."""

LIMITS = 0.5, 4.0
"""What it may be off by: beyond, something else is."""


@dataclass
class Found:
    """What changes of one state were found to add, in nats; `measured`: those that the whole model was run with; `off`:
    what was found over what was predicted, by what changes and where."""

    search: Search
    state: State
    added: dict[Key, float] = field(default_factory=dict)
    measured: set[Key] = field(default_factory=set)
    off: dict[tuple[Unit, int], float] = field(default_factory=dict)
    _above: Above | None = None
    _checked: dict[int, float] = field(default_factory=dict)

    def look(self, moves: Sequence[Move]) -> bool:
        """Try those that were not tried yet; whether there were any. Branches and folds that were are measured."""
        if self.search.effort.checks is None:
            fresh, again = [], [move for move in moves if move.key not in self.measured]
        else:
            fresh = [move for move in moves if move.key not in self.added]
            again = [move for move in moves if whole(move.unit) and move.key in self.added.keys() - self.measured]
        between = [*self._between(fresh)]
        tried = [move for move in fresh if move not in between]
        told = self._told(tried)
        for move in track(again, "program", len(again), self.search.progress):
            told[move.key] = self.search.tried(self.state, move).added
            self.measured.add(move.key)
        for move in (*tried, *again):
            self.added[move.key] = max(told[move.key], LEAST)
            if move.predicted > 0:
                self.search.factors[move.key] = self.off[move.unit, move.position] = min(
                    self.added[move.key] / move.predicted, 100.0)
        for move in between:
            factor = self._as_neighbours(move)
            self.search.factors[move.key], self.added[move.key] = factor, max(factor * move.predicted, LEAST)
        return bool(fresh or again)

    def _between(self, moves: Sequence[Move]) -> Iterator[Move]:
        """Those that are not tried, since the same site or MLP of a block near by is."""
        apart = max(1, len(self.state.layout) // TALL)
        known: dict[Unit, list[int]] = {}
        for unit, position in self.off:
            known.setdefault(unit, []).append(position)
        for move in sorted(moves, key=lambda move: move.position):
            places = known.setdefault(move.unit, [])
            if whole(move.unit) or all(abs(place - move.position) >= apart for place in places):
                places.append(move.position)
            else:
                yield move

    def _as_neighbours(self, move: Move) -> float:
        places = sorted(position for unit, position in self.off if unit == move.unit)
        if not places:
            return 1.0
        return float(np.exp(np.interp(move.position, places, [np.log(self.off[move.unit, at]) for at in places])))

    def _told(self, moves: Sequence[Move]) -> dict[Key, float]:
        """By the second order, corrected."""
        if not moves:
            return {}
        if self._above is None:
            self._above = self.search.above(self.state)
        told = {move.key: self.search.expected(self.state, self._above, move)
                for move in track(moves, "program", len(moves), self.search.progress)}
        if not self._checked:
            self._check(moves, told)
        places = sorted(self._checked)
        factors = [self._checked[place] for place in places]
        return {move.key: told[move.key] * float(np.interp(move.position, places, factors)) for move in moves}

    def _check(self, moves: Sequence[Move], told: dict[Key, float]) -> None:
        """By how much it is off, low and high in the model: the clearest of the changes tried near some places."""
        clear = [move for move in moves if told[move.key] > CLEAR] or moves[:1]
        checks = self.search.effort.checks or 1
        spots = np.linspace(0, len(self.state.layout) - 1, checks)
        chosen = {min(clear, key=lambda m: (abs(m.position - spot), -told[m.key])).key for spot in spots}
        picked = [move for move in clear if move.key in chosen]
        few = self.search.meter.every(CHECKED)
        known = self.search.loss(self.state, few)
        for move in track(picked, "checks", len(picked), self.search.progress):
            measured = self.search.tried(self.state, move, few, known).added
            self._checked[move.position] = float(np.clip(measured / max(told[move.key], LEAST), *LIMITS))
