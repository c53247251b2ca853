"""Picture: decoding speed at batch 1 under the roof that memory sets, measured bandwidth over bytes per token.

After the roofline model (Williams, Waterman, Patterson, CACM 52(4), 2009): at batch 1 a decoder reads every weight for
one token, so that bytes bound it and not arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foldrank.reporting import figures
from foldrank.reporting.parts import Picture
from foldrank.reporting.picture import BUNDLES, INK, PAPER, picture
from foldrank.reporting.workload import told
from foldrank.reports.bench import Bench, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "osD^v"
"""One an engine."""


@dataclass(frozen=True)
class Point:
    """A row of the bench at batch 1, and the tokens per second at which its bytes would take all the bandwidth."""

    bundle: str
    engine: str
    workload: str
    bytes_per_token: float
    tokens_per_s: float
    roof: float
    stable: bool

    @property
    def share(self) -> float:
        """Of the roof; above 1 where weights come from a cache instead of memory."""
        return self.tokens_per_s / self.roof


def points(bench: Bench) -> list[Point]:
    """Every row at batch 1 with a speed and its bytes; none where the run measured no bandwidth."""
    bandwidth = bench.environment.bandwidth_bytes_per_s
    return [
        point for row in bench.rows
        if bandwidth and bandwidth > 0 and (point := _point(row, bandwidth)) is not None
    ]


def _point(row: Row, bandwidth: float) -> Point | None:
    speed, size = row.decode_tokens_per_s, row.bytes_per_token
    if row.bundle not in BUNDLES or row.batch != 1 or speed <= 0 or size <= 0:
        return None
    named = told(row.engine, None, row.context_tokens, None)
    return Point(row.bundle, row.engine or "", named, size, speed, bandwidth / size, row.stable is not False)


def roofline(bench: Bench) -> list[Picture]:
    """Nothing where the bench names no bandwidth, or no row at batch 1."""
    found = points(bench)
    if not found:
        return []
    bandwidth = found[0].roof * found[0].bytes_per_token
    alt = (
        "Tokens per second at batch 1 against bytes read per token, under the roof of the measured bandwidth, "
        f"{figures.size(bandwidth)}/s. "
    ) + " ".join(
        f"{BUNDLES[point.bundle][0]}, {point.workload}: {figures.significant(point.tokens_per_s)} at "
        f"{figures.size(point.bytes_per_token)}, {figures.percent(point.share, 0)} of the roof." for point in found
    )
    return [picture(lambda: _draw(found, bandwidth), "roofline", alt, _caption(found, bandwidth))]


def _caption(found: Sequence[Point], bandwidth: float) -> str:
    words = (
        f"Decoding at batch 1. The line is the bandwidth measured in the same run, {figures.size(bandwidth)}/s, over "
        "the bytes a token reads: no faster while weights come from memory. Towards the line software could still win, "
        "along it to the left smaller weights do."
    )
    if any(not point.stable for point in found):
        words += " Hollow points stand for samples that vary by more than 3 %."
    if any(point.share > 1 for point in found):
        words += " A point above it read weights from the processor's cache."
    return words


def _draw(found: Sequence[Point], bandwidth: float) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6))
    axes = figure.add_subplot()
    low, high = (f(point.bytes_per_token for point in found) for f in (min, max))
    sizes = np.linspace(0.85 * low, 1.1 * high, 64)
    axes.plot(sizes / 1e6, bandwidth / sizes, color=INK, linewidth=1.4, label="bandwidth / bytes per token")
    markers = dict(zip(dict.fromkeys(point.engine for point in found), _MARKERS, strict=False))
    for point in found:
        name, colour = BUNDLES[point.bundle]
        axes.plot(
            [point.bytes_per_token / 1e6], [point.tokens_per_s], markers.get(point.engine, "o"), color=colour,
            markersize=6.5, markeredgewidth=1.6, markerfacecolor=colour if point.stable else PAPER,
            label=", ".join(filter(None, (name, point.engine))),
        )
    for bundle in BUNDLES:
        _annotate(axes, [point for point in found if point.bundle == bundle])
    axes.set_ylim(0, 1.08 * max(bandwidth / sizes[0], *(point.tokens_per_s for point in found)))
    axes.set_xlim(sizes[0] / 1e6, sizes[-1] / 1e6)
    axes.set_xlabel("MB read per token")
    axes.set_ylabel("tokens per second")
    axes.grid()
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=3)
    return figure


def _annotate(axes: Any, found: Sequence[Point]) -> None:
    """The share of the roof that the best point of a bundle reaches, beside it."""
    if found:
        best = max(found, key=lambda point: point.share)
        axes.annotate(
            figures.percent(best.share, 0), (best.bytes_per_token / 1e6, best.tokens_per_s), textcoords="offset points",
            xytext=(9, 3), color=BUNDLES[best.bundle][1],
        )
