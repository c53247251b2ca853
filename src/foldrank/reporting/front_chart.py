"""Picture: what other budgets were expected to cost, beside the one that was taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from foldrank.reporting import figures, lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.parts import Part, table
from foldrank.reporting.picture import DENSE, SMALL, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Point = tuple[float, float]
"""Share of the budget, expected nats a token."""

_KINDS = {"fold": "blocks folded", "drop": "branches dropped", "width": "narrower MLPs", "rank": "pairs",
          "bits": "few bits"}


def front(evidence: Evidence) -> list[Part]:
    """The front of `auto`, and what each kind of change costs; nothing where another method planned."""
    points = [(of, nats) for row in lookup.rows(evidence.diagnostics, "auto_front")
              if (of := lookup.number(row, "of_budget")) is not None
              and (nats := lookup.number(row, "predicted_nats")) is not None]
    parts: list[Part] = []
    if len(points) > 1:
        said = ", ".join(f"{figures.percent(of)}: {figures.nats(nats)}" for of, nats in points)
        caption = "Expected by the planner before rounding is carried out; the budget taken is 100 %."
        parts.append(picture(lambda: _draw(points), "front", f"Nats expected by share of the budget. {said}.", caption))
    rows = [[_KINDS.get(lookup.text(row, "axis") or "", "?"), _nats(row, "predicted_nats"), _nats(row, "alone_nats")]
            for row in lookup.rows(evidence.diagnostics, "auto_axes")]
    if rows:
        parts.append(table(
            ("kind of change", "expected here", "alone at this budget"), "lrr", [list(row) for row in rows],
            "Nats a token that each kind is expected to cost in this plan, and what it alone would have cost at the "
            "same budget; out of reach: it alone cannot meet that."))
    return parts


def _nats(row: object, key: str) -> str:
    found = lookup.number(row, key)
    return "out of reach" if found is None else figures.nats(found)


def _draw(points: Sequence[Point]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 2.6))
    axes = figure.subplots()
    axes.plot([100 * of for of, _ in points], [nats for _, nats in points], color=DENSE, marker="o", markersize=4)
    axes.plot([100 * of for of, _ in points if of == 1], [nats for of, nats in points if of == 1], color=SMALL,
              marker="o", markersize=8)
    axes.set_xlabel("% of the budget")
    axes.set_title("expected loss, nats a token", loc="left")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    return figure
