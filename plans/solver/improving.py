"""Improve a layout where it stands: most promising changes first, and the first that is measured to pay is taken.

Every change is built whole (all above it refit) and measured on all windows; the best of ten would take ten builds a
change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count

from foldrank.edits.low_rank import rank_limit
from foldrank.plans.solver.costs import of_span
from foldrank.plans.solver.journal import Step
from foldrank.plans.solver.layout import Layout, Span, with_span
from foldrank.plans.solver.moves import Move, Terms, Unit
from foldrank.plans.solver.search import Search, State, name
from foldrank.progress import track

Change = tuple[Move, ...]
"""Moves in a row."""

ROOM = 1e-3
"""Share of the limit: less that is left over is worth no build."""


def roomy(room: float, limit: float) -> bool:
    """Whether what is left of a limit is worth a build."""
    return room > ROOM * limit


def filled(search: Search, limit: float) -> None:
    """What a search saved too much is spent on higher ranks and wider MLPs, as long as that is measured to pay."""
    def raises(state: State) -> Sequence[Change]:
        room = limit - search.terms.cost(state.layout)
        return [(move,) for move in raised(search.terms, state.layout, room)] if roomy(room, limit) else []

    _improve(search, raises, count())


def exchanged(search: Search, limit: float) -> None:
    """Ranks and channels go from where they are worth less to where they are worth more, while that pays."""
    def exchanges(state: State) -> Sequence[Change]:
        return [*swapped(search.terms, state.layout, limit - search.terms.cost(state.layout))]

    most = search.effort.exchanges
    _improve(search, exchanges, track(range(most), "exchanges", most, search.progress))


def raised(terms: Terms, layout: Layout, room: float) -> list[Move]:
    """Every pair with a higher rank, every narrow MLP with more channels, that costs at most `room` more: the next step
    up, and the highest."""
    found = []
    for position, span in enumerate(layout):
        for unit, steps in _steps_up(terms, span):
            moves = []
            for step in steps:
                saved = of_span(span, terms.shapes, terms.costs) - of_span(step, terms.shapes, terms.costs)
                if -saved <= room:
                    nats = terms.predicted(step) - terms.predicted(span)
                    moves.append(Move(position, with_span(layout, position, step), unit, saved, nats))
            found += moves[:1] + moves[1:][-1:]
    return found


def swapped(terms: Terms, layout: Layout, room: float) -> Iterator[Change]:
    """One pair a rank lower or one MLP a step narrower, then another as much higher as that and the `room` allow."""
    for position, span in enumerate(layout):
        for unit, lowered in _steps_down(terms, span):
            down = terms.step(layout, position, lowered, unit)
            if down is not None:
                yield from ((down, up) for up in raised(terms, down.layout, room + down.saved) if up.key != down.key)


def _steps_up(terms: Terms, span: Span) -> Iterator[tuple[Unit, list[Span]]]:
    """All there are, by what they change, the smallest first."""
    for roles, held in span.ranks.items():
        shape, least = terms.shapes[roles], (held // terms.align + 1) * terms.align
        yield (roles,), [span.with_ranks({roles: rank}) for rank in range(least, rank_limit(*shape) + 1, terms.align)
                         if terms.allowed(shape, rank)]
    if span.width is not None:
        wider = [width for width in terms.narrowings[span.source].widths if width > span.width]
        yield "width", [*map(span.narrow, wider), span.narrow(None)]


def _steps_down(terms: Terms, span: Span) -> Iterator[tuple[Unit, Span]]:
    """The next of each."""
    for roles, held in span.ranks.items():
        yield (roles,), span.with_ranks({roles: (held - 1) // terms.align * terms.align or 1})
    if span.width is not None:
        below = [width for width in terms.narrowings[span.source].widths if width < span.width]
        yield from (("width", span.narrow(width)) for width in below[-1:])


def _improve(search: Search, changes: Callable[[State], Sequence[Change]], builds: Iterable[int]) -> None:
    """Until none of the `later` most promising changes pays, or `builds` ends. Those that did not pay before the last
    one that did come after all others."""
    failed: set[tuple[tuple[int, Unit], ...]] = set()

    def place(change: Change) -> tuple[bool, float]:
        expected = sum(move.predicted * search.factors.get(move.key, 1.0) for move in change)
        return _key(change) in failed, expected

    promising: Iterator[Change] | None = None
    for _ in builds:
        if promising is None:
            promising = iter(sorted(changes(search.reached), key=place)[: search.effort.later])
        change = next(promising, None)
        if change is None:
            break
        made, before = search.build(change[-1].layout, search.reached, min(m.position for m in change)), search.reached
        if made.loss < before.loss:
            _noted(search, change, made.loss - before.loss, made.loss)
            search.reached, promising = made, None
        else:
            failed.add(_key(change))
        del made, before  # the next one is built beside one state, not two


def _key(change: Change) -> tuple[tuple[int, Unit], ...]:
    return tuple(move.key for move in change)


def _noted(search: Search, change: Change, added: float, loss: float) -> None:
    search.steps.extend(
        Step(move.key[0], name(move.unit), move.saved, move.predicted, added, loss) for move in change
    )
