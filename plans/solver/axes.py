"""What each kind of change is expected to cost in a layout, and what it alone, or another budget, would have given.

By predictions, corrected by what was found on the way. Knows no tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from foldrank.edits.base import LAST
from foldrank.plans.solver.journal import Factors
from foldrank.plans.solver.layout import Layout, Span, attentions, branch_of
from foldrank.plans.solver.moves import Terms, Unit
from foldrank.plans.solver.options import joint, ranks, stored_alike, widths
from foldrank.plans.solver.program import Option, choose

Axis = Literal["fold", "drop", "width", "rank", "bits"]
AXES: tuple[Axis, ...] = ("fold", "drop", "width", "rank", "bits")

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
"""Of the budget: the other ones that are told of."""

GAP = 5e-3
"""Relative gap to the best bound: what is told here, and decides nothing, need not be closer."""


@dataclass(frozen=True)
class Share:
    """Nats that one kind of change is expected to cost in a layout, and those that it alone would have cost at the same
    budget: None where it cannot meet that."""

    axis: Axis
    nats: float
    alone: float | None


def shares(terms: Terms, dense: Layout, chosen: Layout, factors: Factors, limit: float) -> list[Share]:
    """Of every kind that is open."""
    spent = dict.fromkeys(AXES, 0.0)
    for span in chosen:
        for axis, nats in _of_span(terms, span, factors):
            spent[axis] += nats
    found = []
    for axis in AXES:
        alone = best(only(terms, axis), dense, factors, limit)
        if spent[axis] or alone is not None:
            found.append(Share(axis, spent[axis], alone))
    return found


def front(terms: Terms, dense: Layout, factors: Factors, limit: float) -> list[tuple[float, float]]:
    """(cost, expected nats) at other budgets, those that can be met."""
    whole = terms.cost(dense)
    costs = [share * limit for share in SHARES if share * limit < whole]
    return [(cost, nats) for cost in costs if (nats := best(terms, dense, factors, cost)) is not None]


def best(terms: Terms, dense: Layout, factors: Factors, limit: float) -> float | None:
    """Least expected nats within a budget; None where nothing meets it."""
    wholes = {move.key: move for move in terms.wholes(dense, terms.cost(dense) - limit)}
    added = {key: move.predicted * factors.get(key, 1.0) for key, move in wholes.items()}
    options: Sequence[Option] = [*ranks(terms, dense, factors), *widths(terms, dense, factors),
                                 *joint(terms, dense, wholes, added)]
    chosen = choose(options, limit - len(dense) * terms.costs.block(), attentions(dense) - 1,
                    stored_alike(dense, terms), GAP)
    return None if chosen is None else sum(option.nats for option in chosen)


def only(terms: Terms, axis: Axis) -> Terms:
    """The same where nothing else may change."""
    return replace(
        terms,
        alike=terms.alike if axis == "fold" else lambda _low, _high: False,
        drops=axis == "drop" and terms.drops,
        narrowings=terms.narrowings if axis == "width" else {},
        allowed=terms.allowed if axis == "rank" else lambda _shape, _rank: False,
        rounding=terms.rounding if axis == "bits" else {},
    )


def _of_span(terms: Terms, span: Span, factors: Factors) -> Iterator[tuple[Axis, float]]:
    curves = terms.curves[span.source]
    for roles, rank in span.ranks.items():
        yield "rank", float(curves[roles][rank]) * factors.get((span.low, (roles,)), 1.0)
    if span.width is not None:
        known = terms.narrowings[span.source]
        yield "width", known.nats[span.width] * factors.get((span.low, "width"), 1.0)
    if span.dropped is not None:
        yield "drop", float(curves[(LAST[span.dropped],)][0]) * factors.get((span.low, span.dropped), 1.0)
    if span.low != span.high:
        gone = span.high if span.source == span.low else span.low
        unit: Unit = "bottom" if span.source == span.low else "top"
        nothing = sum(float(curve[1]) for curve in terms.curves[gone].values())
        yield "fold", nothing * factors.get((span.low, unit), 1.0)
    for roles, bits in span.bits.items():
        share = span.width / terms.narrowings[span.source].whole if span.width and branch_of(roles) == "mlp" else 1.0
        yield "bits", terms.stored(span.source, roles, span.ranks.get(roles))[bits] * share
