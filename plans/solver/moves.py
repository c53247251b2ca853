"""The choices open at a layout: lower the ranks of a site or of a whole branch of one block, narrow its MLP, drop a
branch, or fold two neighbours.

Knows shapes, costs and predicted losses; no tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from foldrank.edits.base import BRANCHES, LAST
from foldrank.plans.solver.costs import Costs, of_span, total
from foldrank.plans.solver.fisher import Curves
from foldrank.plans.solver.layout import (
    Layout,
    Roles,
    Shapes,
    Span,
    attentions,
    branch_of,
    merged,
    rank_of_share,
    with_span,
)
from foldrank.plans.solver.narrowing import Narrowing
from foldrank.plans.solver.rounding import Rounding

SHARES = (0.7, 0.45, 0.25, 0.1, 0.0)
"""Shares of a dense site's numbers that a step down goes to; the last is rank 1, all but removed."""

WIDTHS = (0.9, 0.75, 0.5, 0.25, 0.0)
"""Shares of an MLP's channels that a step goes down to; the last is the narrowest there is."""

Unit = tuple[Roles, ...] | Literal["width", "attention", "mlp", "top", "bottom"]
"""What a move changes: ranks of sites together, the width of an MLP, the branch it drops, or the fold it makes."""

FOLDS: Final = frozenset({"top", "bottom"})


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
    """What moves are made from. `allowed(shape, rank)`: may a pair stand there; `alike(low, high)`: may blocks fold.

    `narrowings`: what MLPs of other widths are expected to cost, by source number; `drops`: may branches leave;
    `rounding`: nats that storing a dense site in few bits is expected to cost, by source number, site and bits.
    """

    shapes: Shapes
    costs: Costs
    curves: Curves
    align: int
    allowed: Callable[[tuple[int, int], int], bool]
    alike: Callable[[int, int], bool]
    narrowings: Mapping[int, Narrowing] = field(default_factory=dict)
    drops: bool = False
    rounding: Rounding = field(default_factory=dict)

    def cost(self, layout: Layout) -> float:
        """Cost of a layout."""
        return total(layout, self.shapes, self.costs)

    def predicted(self, span: Span) -> float:
        """Nats that what became of a block is expected to cost, folds aside."""
        curves = self.curves[span.source]
        found = sum(float(curves[roles][rank]) for roles, rank in span.ranks.items())
        if span.width is not None:
            found += self.narrowings[span.source].nats[span.width]
        if span.dropped is not None:
            found += float(curves[(LAST[span.dropped],)][0])
        return found

    def stored(self, source: int, roles: Roles, rank: int | None = None) -> dict[int | None, float]:
        """Nats by the bits a site may be stored in, floats (None) among them. A pair is rounded twice."""
        losses = self.rounding.get(source, {}).get(roles, {})
        return {None: 0.0, **{bits: nats * (1 if rank is None else 2) for bits, nats in losses.items()}}

    def narrowing(self, span: Span) -> Narrowing | None:
        """What other widths of its MLP are expected to cost; None where it has none, or holds pairs."""
        paired = any(branch_of(roles) == "mlp" for roles in span.ranks)
        return None if paired or span.dropped == "mlp" else self.narrowings.get(span.source)

    def pairable(self, span: Span) -> list[Roles]:
        """The sites that are pairs or may become some: not those of a narrower MLP."""
        return [roles for roles in span.shapes(self.shapes) if span.width is None or branch_of(roles) != "mlp"]

    def step(self, layout: Layout, position: int, span: Span, unit: Unit) -> Move | None:
        """The move to another span at a position; None where that saves nothing."""
        before = layout[position]
        saved = of_span(before, self.shapes, self.costs) - of_span(span, self.shapes, self.costs)
        nats = max(self.predicted(span) - self.predicted(before), 0.0)
        return Move(position, with_span(layout, position, span), unit, saved, nats) if saved > 0 else None

    def moves(self, layout: Layout, need: float) -> list[Move]:
        """Every move open that saves something; none saves more than it must to meet the `need`.

        A fold saves what it saves: one that is too large is open where nothing else is left.
        """
        found = [move for position in range(len(layout))
                 for kind in (self._lowered, self._narrowed, self._dropped) for move in kind(layout, position, need)]
        folds = [move for position in range(len(layout) - 1) for move in self._folded(layout, position)]
        found += [move for move in folds if move.saved <= need]
        return found or (folds if need > 0 else [])

    def wholes(self, layout: Layout, need: float) -> list[Move]:
        """What is all or nothing: a branch dropped (where branches may not be, all but removed), two blocks folded."""
        kinds = {move.key: move for move in self.moves(layout, need) if whole(move.unit)}
        return [move for move in kinds.values() if isinstance(move.unit, str) or not self.drops]

    def _narrowed(self, layout: Layout, position: int, need: float) -> Iterator[Move]:
        span, moves = layout[position], []
        known = self.narrowing(span)
        if known is None:
            return
        for width in (w for w in reversed(known.widths) if span.width is None or w < span.width):
            move = self.step(layout, position, span.narrow(width), "width")
            moves += [(width, move)] if move is not None else []
            if move is not None and move.saved >= need:
                break
        wanted = {max((w for w, _ in moves if w <= share * known.whole), default=moves[-1][0])
                  for share in WIDTHS if moves}
        yield from (move for width, move in moves if width in wanted)

    def _dropped(self, layout: Layout, position: int, need: float) -> Iterator[Move]:
        span = layout[position]
        if not self.drops or span.dropped is not None:
            return
        for branch in BRANCHES:
            if branch == "attention" and attentions(layout) == 1:
                continue
            move = self.step(layout, position, span.without(branch), branch)
            if move is not None and move.saved <= need:
                yield move

    def _lowered(self, layout: Layout, position: int, need: float) -> Iterator[Move]:
        for unit in self._units(layout[position]):
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

    def _units(self, span: Span) -> list[tuple[Roles, ...]]:
        held = self.pairable(span)
        branches = [tuple(roles for roles in held if branch_of(roles) == branch) for branch in BRANCHES]
        return [(roles,) for roles in held] + [branch for branch in branches if len(branch) > 1]

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
        return self.step(layout, position, span.with_ranks(ranks), unit)

    def _folded(self, layout: Layout, position: int) -> Iterator[Move]:
        below, above = layout[position], layout[position + 1]
        if not self.alike(below.low, above.high):
            return
        folds: tuple[tuple[Unit, Span], ...] = (("top", below), ("bottom", above))
        for name, left in folds:
            nothing = Span(left.low, left.high, left.source, dict.fromkeys(self.shapes, 1))
            expected = self.predicted(nothing) - self.predicted(left)
            made = merged(layout, position, top=name == "top")
            saved = self.cost(layout) - self.cost(made)
            if saved > 0:
                yield Move(position, made, name, saved, max(expected, 0.0), span=2)


def whole(unit: Unit) -> bool:
    """Whether a move of this kind is all or nothing, or is tried at its end: a branch, a fold."""
    return unit != "width" if isinstance(unit, str) else len(unit) > 1
