"""Picture: perplexity before and after, and how often the likeliest token is the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from foldrank.reporting import figures
from foldrank.reporting.parts import Picture
from foldrank.reporting.picture import ALERT, DENSE, GRID, PAPER, SMALL, picture
from foldrank.reports.form import Gate
from foldrank.reports.validate import Quality

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def quality_picture(quality: Quality, gates: Sequence[Gate]) -> list[Picture]:
    """Two panels with the gates' limits."""
    dense, here, agreement = quality.dense_perplexity, quality.perplexity, quality.top1_agreement
    rise, least = (_limit(gates, word) for word in ("perplexity", "top1"))
    alt = (
        f"Perplexity {figures.significant(dense)} dense, {figures.significant(here)} in this bundle. "
        f"The likeliest token is the same for {figures.percent(agreement)} of the positions."
    )
    caption = "Red lines are gates." if rise is not None or least is not None else "No gates were set."
    limit = dense * (1 + rise) if rise is not None else None
    return [picture(lambda: _draw(dense, here, limit, agreement, least), "quality", alt, caption)]


def _draw(dense: float, here: float, limit: float | None, agreement: float, least: float | None) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 2.6))
    left, right = figure.subplots(2, 1, height_ratios=(5, 3))
    _bars(left, [("dense", dense, DENSE), ("this bundle", here, SMALL)], limit)
    left.set_title("perplexity (lower is better)", loc="left")
    _agreement(right, agreement, least)
    return figure


def _limit(gates: Sequence[Gate], word: str) -> float | None:
    return next((gate.limit for gate in gates if word in gate.name), None)


def _bars(axes: Axes, rows: list[tuple[str, float, str]], limit: float | None) -> None:
    longest = 1.05 * max(*(value for _, value, _ in rows), limit or 0)
    for place, (_, value, colour) in zip((1, 0), rows, strict=True):
        axes.barh(place, value, height=0.66, color=colour)
        axes.text(value - 0.01 * longest, place, figures.significant(value), va="center", ha="right", color=PAPER)
    axes.set_yticks((1, 0), [name for name, _, _ in rows])
    axes.set_xlim(0, longest)
    _finish(axes, limit)


def _agreement(axes: Axes, share: float, limit: float | None) -> None:
    axes.barh(0, 1, height=0.66, color=GRID)
    axes.barh(0, share, height=0.66, color=SMALL)
    axes.text(max(share, 0.15) - 0.01, 0, figures.percent(share), va="center", ha="right", color=PAPER)
    axes.set_yticks([0], ["this bundle"])
    axes.set_ylim(-0.5, 0.5)
    axes.set_xlim(0, 1.05)
    axes.set_xticks((0, 0.5, 1), ("0 %", "50 %", "100 %"))
    axes.set_title("same likeliest token as dense", loc="left")
    _finish(axes, limit)


def _finish(axes: Axes, limit: float | None) -> None:
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    if limit is not None:
        axes.axvline(limit, color=ALERT, linewidth=1.6)
