"""Picture: measured speed-ups with their intervals, beside the ideal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from foldrank.reporting import figures, lookup
from foldrank.reporting.parts import Picture
from foldrank.reporting.picture import INK, QUIET, SMALL, canvas, inline_svg
from foldrank.reporting.workload import workload


def speedups(measured: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """One line a workload: ratio, 95 % interval, ideal. Nothing where no ratio was measured."""
    rows = [row for row in measured if lookup.number(row, "ratio") is not None]
    if not rows:
        return []
    alt = "Speed-up over dense. " + " ".join(
        f"{workload(row)}: {figures.times(lookup.number(row, 'ratio'))}, ideal {figures.times(lookup.number(row, 'ideal'))}."
        for row in rows)
    caption = "Speed-up over the dense bundle: measured (dot, with its 95 % interval) and ideal (bar). Right is faster."
    with canvas("speedups"):
        return [Picture(inline_svg(_draw(rows), "speedups", alt), caption)]


def _draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(7.2, 1.0 + 0.34 * len(rows)))
    axes = figure.add_subplot()
    places = range(len(rows), 0, -1)
    for place, row in zip(places, rows, strict=True):
        ratio, ideal, bounds = lookup.number(row, "ratio"), lookup.number(row, "ideal"), lookup.numbers(row, "ci95")
        if ideal is not None:
            axes.plot([ideal, ideal], [place - 0.3, place + 0.3], color=INK, linewidth=2.2, solid_capstyle="butt",
                      label="ideal")
        if len(bounds) == 2:
            axes.plot(bounds, [place, place], color=SMALL, linewidth=3, alpha=0.5, solid_capstyle="butt")
        axes.plot([ratio], [place], "o", color=SMALL, markersize=6.5, label="measured")
    axes.axvline(1, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(list(places), [workload(row) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_ylim(0.4, len(rows) + 0.6)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.95), max(high, 1.05))
    axes.set_xlabel("times as fast as dense")
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(named.values(), named.keys(), loc="outside upper right", ncols=2)
    return figure
