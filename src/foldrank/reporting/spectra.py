"""Picture: how much is lost at which rank, one panel a role, one line a block, the chosen rank marked on each."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foldrank.reporting import lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.parts import Missing, Part
from foldrank.reporting.picture import INK, picture
from foldrank.sites import PACKED, ROLES, Site

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FLOOR = 1e-4
"""Below 0.01 % lost there is nothing to tell apart; the axis ends there."""
_DEPTH = ("#2f6fb7", "#8a8f98", "#e08a1e")
"""Blue to orange: told apart by every kind of colour vision, seen on white and on black."""
_NONE = Missing("Singular-value spectra were", "foldrank plan MODEL --method dipsvd:keep=0.8 -o PLAN")


@dataclass(frozen=True)
class Spectrum:
    """Share of the loss that keeping `ranks[i]` leaves: `lost[i]`, from 1 (rank 0) to 0 (full)."""

    site: Site
    ranks: list[float]
    lost: list[float]
    rank: float | None
    full: float

    @property
    def at_rank(self) -> float:
        """`lost` at the chosen rank, between the stored points by straight lines."""
        assert self.rank is not None
        points = list(zip(self.ranks, self.lost, strict=True))
        for (r0, y0), (r1, y1) in itertools.pairwise(points):
            if r0 <= self.rank <= r1:
                return y0 if r1 == r0 else y0 + (y1 - y0) * (self.rank - r0) / (r1 - r0)
        return points[0][1] if self.rank < points[0][0] else points[-1][1]


def spectra(evidence: Evidence) -> list[Part]:
    """The panels, or what is missing."""
    by_role: dict[str, list[Spectrum]] = defaultdict(list)
    for spectrum in read(evidence):
        by_role[spectrum.site.role].append(spectrum)
    if not by_role:
        return [_NONE]
    order: list[str] = [
        role for role in ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down") if role in by_role
    ]
    marked = sum(s.rank is not None for found in by_role.values() for s in found)
    alt = (
        f"{len(order)} panels ({', '.join(order)}): share of the weighted loss left at each rank, one line a block; "
        f"{marked} chosen ranks marked."
    )
    caption = (
        "What truncation loses at each rank, as a share of losing the whole weight under the method's metric "
        "(logarithmic; cut at 0.01 %). A dot marks the rank that was chosen; a line without one stayed dense."
    )
    return [picture(lambda: _draw(order, by_role), "spectra", alt, caption)]


def read(evidence: Evidence) -> list[Spectrum]:
    """The spectra in plan/diagnostics.json that can be drawn."""
    found = []
    for row in lookup.rows(evidence.diagnostics, "spectra"):
        name, full = lookup.text(row, "site"), lookup.number(row, "full")
        ranks, lost = lookup.numbers(row, "ranks"), lookup.numbers(row, "values")
        if name is None or full is None or len(ranks) < 2 or len(ranks) != len(lost) or not _is_site(name):
            continue
        found.append(Spectrum(Site.parse(name), ranks, lost, lookup.number(row, "rank"), full))
    return found


def _is_site(name: str) -> bool:
    number, _, role = name.removeprefix("block.").partition(".")
    return name.startswith("block.") and number.isdecimal() and len(number) >= 2 and role in {*ROLES, *PACKED}


def _draw(order: list[str], by_role: dict[str, list[Spectrum]]) -> Figure:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(len(order), 4)
    height = -(-len(order) // columns)
    figure = Figure(figsize=(max(4.2, 2.4 * columns), 2.3 * height))
    panels = figure.subplots(height, columns, squeeze=False, sharey=True).ravel()
    depths = [s.site.block for found in by_role.values() for s in found]
    low, high = min(depths), max(depths)
    colours = LinearSegmentedColormap.from_list("depth", _DEPTH)
    shade = ScalarMappable(Normalize(low, max(high, low + 1)), colours)
    for axes, role in zip(panels, order, strict=False):
        for spectrum in by_role[role]:
            colour = colours((spectrum.site.block - low) / max(1, high - low))
            axes.plot(spectrum.ranks, [max(v, _FLOOR) for v in spectrum.lost], color=colour, linewidth=1.1)
            if spectrum.rank is not None:
                axes.plot(
                    [spectrum.rank],
                    [max(spectrum.at_rank, _FLOOR)],
                    "o",
                    color=colour,
                    markeredgecolor=INK,
                    markersize=5,
                    markeredgewidth=0.7,
                    clip_on=False,
                    zorder=3,
                )
        axes.set_yscale("log")
        axes.set_ylim(_FLOOR, 1.2)
        axes.set_yticks([1, 0.1, 0.01, 0.001, 0.0001], ["100 %", "10 %", "1 %", "0.1 %", "0.01 %"])
        axes.minorticks_off()
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlim(0, max(s.full for s in by_role[role]))
        axes.grid(axis="y")
        axes.set_title(role.replace("_", " + "))
        axes.set_xlabel("rank")
    for axes in panels[len(order) :]:
        axes.set_visible(False)
    figure.supylabel("loss left", fontsize=10)
    bar = figure.colorbar(shade, ax=list(panels), label="block", shrink=0.8, aspect=30)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(integer=True, nbins=6)
    bar.update_ticks()
    return figure
