"""The choices open at a layout: lower the ranks of a site or of a whole branch of one block, or fold two neighbours.

Knows shapes, costs and predicted losses; no tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from foldrank.edits.low_rank import rank_limit
from foldrank.plans.solver.costs import Costs, total
from foldrank.plans.solver.fisher import Curves
from foldrank.plans.solver.layout import BRANCHES, Layout, Roles, Shapes, Span, merged, rank_of_share, with_span

SHARES = (0.7, 0.45, 0.25, 0.1, 0.0)
"""Shares of a dense site's numbers that a step down goes to; the last is rank 1, all but removed."""

Unit = tuple[Roles, ...] | str
"""What a move lowers: sites together, or the fold it makes ("top", "bottom")."""


@dataclass(frozen=True)
class Move:
    """A layout one step smaller, or larger: then `saved` and `predicted` are below 0. `predicted`: nats it is expected
    to cost; `span`: number of blocks it takes in."""

    position: int
    layout: Layout
    unit: Unit
    saved: float
    predicted: float
    span: int = 1

    @property
    def key(self) -> tuple[int, Unit]:
        """What tells moves of one kind at one place: their predictions are off by a like factor."""
        return self.layout[self.position].low, self.unit


@dataclass(frozen=True)
class Terms:
    """What moves are made from. `allowed(shape, rank)`: may a pair stand there; `alike(low, high)`: may blocks fold."""

    shapes: Shapes
    costs: Costs
    curves: Curves
    align: int
    allowed: Callable[[tuple[int, int], int], bool]
    alike: Callable[[int, int], bool]

    def cost(self, layout: Layout) -> float:
        """Cost of a layout."""
        return total(layout, self.shapes, self.costs)

    def predicted(self, span: Span) -> float:
        """Nats the ranks of a block are expected to cost."""
        return sum(float(self.curves[span.source][roles][rank]) for roles, rank in span.ranks.items())

    def moves(self, layout: Layout, need: float) -> list[Move]:
        """Every move open that saves something; none saves more than it must to meet the `need`.

        A fold saves what it saves: one that is too large is open where nothing else is left.
        """
        found = [move for position in range(len(layout)) for move in self._lowered(layout, position, need)]
        folds = [move for position in range(len(layout) - 1) for move in self._folded(layout, position)]
        found += [move for move in folds if move.saved <= need]
        return found or (folds if need > 0 else [])

    def probes(self, layout: Layout, need: float) -> list[Move]:
        """One move of every kind at every place: a site about halfway, a branch all but removed, two blocks folded."""
        kinds: dict[tuple[int, Unit], list[Move]] = {}
        for move in self.moves(layout, need):
            kinds.setdefault(move.key, []).append(move)
        return [moves[-1 if isinstance(unit, str) or len(unit) > 1 else len(moves) // 2]
                for (_, unit), moves in kinds.items()]

    def raises(self, layout: Layout, room: float) -> list[Move]:
        """Every pair with a higher rank that costs at most `room` more: the next rank, and the highest."""
        found = []
        for position, span in enumerate(layout):
            for roles, held in span.ranks.items():
                shape, least = self.shapes[roles], (held // self.align + 1) * self.align
                known = room + self.costs.site(shape, held)
                ranks = [rank for rank in range(least, rank_limit(*shape) + 1, self.align)
                         if self.allowed(shape, rank) and self.costs.site(shape, rank) <= known]
                for rank in {*ranks[:1], *ranks[-1:]}:
                    raised = span.with_ranks({roles: rank})
                    made = with_span(layout, position, raised)
                    gained = self.predicted(raised) - self.predicted(span)
                    found.append(Move(position, made, (roles,), self.cost(layout) - self.cost(made), gained))
        return found

    def exchanges(self, layout: Layout, room: float) -> Iterator[tuple[Move, Move]]:
        """One pair a rank lower, then another pair as much higher as that and the `room` allow."""
        for position, span in enumerate(layout):
            for roles, held in span.ranks.items():
                lowered = span.with_ranks({roles: (held - 1) // self.align * self.align or 1})
                made, cost = with_span(layout, position, lowered), self.predicted(lowered) - self.predicted(span)
                down = self._move(layout, made, position, (roles,), cost)
                if down is not None:
                    yield from ((down, up) for up in self.raises(made, room + down.saved) if up.key != down.key)

    def _lowered(self, layout: Layout, position: int, need: float) -> Iterator[Move]:
        for unit in self._units():
            seen: set[tuple[int, ...]] = set()
            for share in SHARES:
                move = self._at_share(layout, position, unit, share)
                if move is not None and move.saved > need:
                    move = self._landing(layout, position, unit, share, need)
                if move is None:
                    continue
                ranks = tuple(move.layout[position].ranks[roles] for roles in unit)
                if ranks not in seen:
                    seen.add(ranks)
                    yield move

    def _units(self) -> list[tuple[Roles, ...]]:
        branches = [tuple(roles for roles in self.shapes if set(roles) <= set(branch)) for branch in BRANCHES]
        return [(roles,) for roles in self.shapes] + [branch for branch in branches if len(branch) > 1]

    def _landing(self, layout: Layout, position: int, unit: tuple[Roles, ...], low: float, need: float) -> Move | None:
        """The move with the highest share that still saves what is needed."""
        high, best = 1.0, self._at_share(layout, position, unit, low)
        for _ in range(12):
            middle = (low + high) / 2
            move = self._at_share(layout, position, unit, middle)
            if move is not None and move.saved >= need:
                low, best = middle, move
            else:
                high = middle
        return best

    def _at_share(self, layout: Layout, position: int, unit: tuple[Roles, ...], share: float) -> Move | None:
        span, ranks = layout[position], {}
        for roles in unit:
            shape, held = self.shapes[roles], span.ranks.get(roles)
            rank = rank_of_share(shape, share, self.align)
            if held is not None:
                rank = min(rank, held)
            elif not self.allowed(shape, rank):
                return None
            ranks[roles] = rank
        lowered = span.with_ranks(ranks)
        return self._move(layout, with_span(layout, position, lowered), position, unit,
                          self.predicted(lowered) - self.predicted(span))

    def _folded(self, layout: Layout, position: int) -> Iterator[Move]:
        below, above = layout[position], layout[position + 1]
        if not self.alike(below.low, above.high):
            return
        for name, left in (("top", below), ("bottom", above)):
            nothing = left.with_ranks(dict.fromkeys(self.shapes, 1))
            expected = self.predicted(nothing) - self.predicted(left)
            made = merged(layout, position, top=name == "top")
            move = self._move(layout, made, position, name, expected, span=2)
            if move is not None:
                yield move

    def _move(
        self, layout: Layout, made: Layout, position: int, unit: Unit, predicted: float, span: int = 1
    ) -> Move | None:
        saved = self.cost(layout) - self.cost(made)
        return Move(position, made, unit, saved, max(predicted, 0.0), span) if saved > 0 else None
