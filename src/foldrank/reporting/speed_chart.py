"""Pictures: measured speed-ups with their intervals beside the ideal; times before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from foldrank.reporting import figures
from foldrank.reporting.figures import times
from foldrank.reporting.parts import Picture
from foldrank.reporting.picture import DENSE, GRID, INK, PAPER, QUIET, SMALL, picture
from foldrank.reporting.workload import workload
from foldrank.reports.bench import Row, Speedup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def speedups(rows: Sequence[Speedup]) -> list[Picture]:
    """One line a workload: ratio, 95 % interval, ideal. Nothing where no ratio was measured."""
    if not rows:
        return []
    alt = "Speed-up over dense. " + " ".join(
        f"{workload(row)}: {times(row.ratio)}, ideal {times(row.ideal)}." for row in rows
    )
    caption = "Speed-up over the dense bundle: measured (dot, with its 95 % interval) and ideal (bar). Right is faster."
    return [picture(lambda: _draw(rows), "speedups", alt, caption)]


def _draw(rows: Sequence[Speedup]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 1.0 + 0.34 * len(rows)))
    axes = figure.add_subplot()
    places = range(len(rows), 0, -1)
    for place, row in zip(places, rows, strict=True):
        axes.plot([row.ideal], [place], "|", color=INK, markersize=16, markeredgewidth=2.2, label="ideal")
        axes.plot(row.ci95, [place, place], color=SMALL, linewidth=3, alpha=0.5, solid_capstyle="butt")
        unstable = row.stable is False
        axes.plot(
            [row.ratio],
            [place],
            "o",
            color=SMALL,
            markersize=6.5,
            markeredgewidth=1.6,
            markerfacecolor=PAPER if unstable else SMALL,
            label="unstable pairs" if unstable else "measured",
        )
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
    figure.legend(named.values(), named.keys(), loc="outside upper right", ncols=3)
    return figure


def before_after(rows: Sequence[Row]) -> list[Picture]:
    """Two panels, time to the first token and per token after it: dense and this bundle on one line a workload."""
    times: dict[str, dict[str, Row]] = {}
    for row in rows:
        times.setdefault(workload(row), {})[row.bundle] = row
    both = {name: found for name, found in times.items() if {"dense", "compressed"} <= set(found)}
    if not both:
        return []
    alt = "Times, dense and this bundle. " + " ".join(
        f"{name}: first token {_times(found, 'ttft_ms')}, per token {_times(found, 'tpot_ms')}."
        for name, found in both.items()
    )
    caption = "Median times, dense and this bundle; left is faster."
    return [picture(lambda: _draw_times(both), "times", alt, caption)]


def _axis(axes: Axes, times: Sequence[float]) -> None:
    """From 0, or logarithmic where prompts of many lengths would crowd the short ones at the left."""
    if times and min(times) > 0 and max(times) / min(times) > 10:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_xlim(min(times) / 1.4, max(times) * 1.4)
    else:
        axes.set_xlim(0, 1.06 * max(times, default=1))


_MS: dict[str, Callable[[Row], float]] = {"ttft_ms": lambda row: row.ttft_ms, "tpot_ms": lambda row: row.tpot_ms}


def _times(found: Mapping[str, Row], key: str) -> str:
    return " and ".join(figures.milliseconds(_MS[key](found[side])) for side in ("dense", "compressed"))


def _draw_times(both: Mapping[str, Mapping[str, Row]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 1.1 + 0.34 * len(both)))
    panels = figure.subplots(1, 2, sharey=True)
    places = range(len(both), 0, -1)
    for axes, key, title in zip(panels, ("ttft_ms", "tpot_ms"), ("first token", "each token after it"), strict=True):
        for place, found in zip(places, both.values(), strict=True):
            dense, small = (_MS[key](found[side]) for side in ("dense", "compressed"))
            axes.plot([dense, small], [place, place], color=GRID, linewidth=3, zorder=1)
            axes.plot([dense], [place], "o", color=DENSE, markersize=6.5, label="dense")
            axes.plot([small], [place], "o", color=SMALL, markersize=6.5, label="this bundle")
        axes.set_title(title)
        axes.set_xlabel("ms")
        _axis(axes, [_MS[key](row) for found in both.values() for row in found.values()])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
    panels[0].set_yticks(list(places), list(both))
    panels[0].set_ylim(0.4, len(both) + 0.6)
    named = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    figure.legend(named.values(), named.keys(), loc="outside upper right", ncols=2)
    return figure
