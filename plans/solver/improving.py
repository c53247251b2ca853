"""Improve a layout where it stands: most promising changes first, and the first that is measured to pay is taken.

Every change is built whole (all above it refit) and measured on all windows; the best of ten would take ten builds a
change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count

from foldrank.plans.solver.journal import Step
from foldrank.plans.solver.moves import Move, Unit
from foldrank.plans.solver.search import Search, State, name
from foldrank.progress import track

Change = tuple[Move, ...]
"""Moves in a row."""


def filled(search: Search, state: State, limit: float) -> State:
    """What a search saved too much is spent on higher ranks, as long as that is measured to pay."""
    def raises(state: State) -> Sequence[Change]:
        return [(move,) for move in search.terms.raises(state.layout, limit - search.terms.cost(state.layout))]

    return _improved(search, state, raises, count())


def exchanged(search: Search, state: State, limit: float) -> State:
    """Ranks go from pairs where they are worth less to pairs where they are worth more, while that pays."""
    def exchanges(state: State) -> Sequence[Change]:
        return [*search.terms.exchanges(state.layout, limit - search.terms.cost(state.layout))]

    most = search.effort.exchanges
    return _improved(search, state, exchanges, track(range(most), "exchanges", most, search.progress))


def _improved(
    search: Search, state: State, changes: Callable[[State], Sequence[Change]], builds: Iterable[int]
) -> State:
    """Until none of the `later` most promising changes pays, or `builds` ends. Those that did not pay before the last
    one that did come after all others."""
    failed: set[tuple[tuple[int, Unit], ...]] = set()

    def place(change: Change) -> tuple[bool, float]:
        expected = sum(move.predicted * search.factors.get(move.key, 1.0) for move in change)
        return _key(change) in failed, expected

    promising: Iterator[Change] | None = None
    for _ in builds:
        if promising is None:
            promising = iter(sorted(changes(state), key=place)[: search.effort.later])
        change = next(promising, None)
        if change is None:
            break
        made = search.build(change[-1].layout, state, min(move.position for move in change))
        if made.loss < state.loss:
            _noted(search, change, made.loss - state.loss, made.loss)
            state, promising = made, None
        else:
            failed.add(_key(change))
    return state


def _key(change: Change) -> tuple[tuple[int, Unit], ...]:
    return tuple(move.key for move in change)


def _noted(search: Search, change: Change, added: float, loss: float) -> None:
    search.steps.extend(
        Step(move.key[0], name(move.unit), move.saved, move.predicted, added, loss) for move in change
    )
