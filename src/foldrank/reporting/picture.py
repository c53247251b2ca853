"""matplotlib figures as inline SVG that follows the page: its fonts, its light and dark colours, nothing fetched.

Pictures are drawn in the light colours of style.css; in the SVG each becomes its CSS variable, a PNG keeps them.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from foldrank.installed import missing
from foldrank.reporting.parts import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET, GRID, PAPER = "#1b1d1f", "#5d6369", "#d9dad6", "#fcfcfb"
DENSE, SMALL, ALERT = "#7f8790", "#0068a6", "#b3261e"
BUNDLES = {"dense": ("dense", DENSE), "compressed": ("this bundle", SMALL)}
"""A bundle as bench.json calls it, to its name and colour in pictures."""
NOT_DRAWN = "not drawn: matplotlib is not installed, pip install 'foldrank[report]'"
VARIABLES = {
    INK: "--ink",
    QUIET: "--quiet",
    GRID: "--grid",
    PAPER: "--paper",
    DENSE: "--dense",
    SMALL: "--small",
    ALERT: "--bad",
}

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.unicode_minus": False,
    "font.size": 10,
    "font.family": ["DejaVu Sans"],
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "axes.axisbelow": True,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
}


def canvas(name: str) -> Any:
    """A context in which figures are drawn in the report's style; the same input gives the same bytes."""
    import matplotlib

    return matplotlib.rc_context({**_STYLE, "svg.hashsalt": name})


def picture(draw: Callable[[], Figure], name: str, alt: str, caption: str) -> Picture:
    """What `draw` draws, as a part of the page. `name`: unlike every other picture's. Without matplotlib what the
    picture would have told a reader who cannot see it stands in its place."""
    if missing(["matplotlib"]):
        return Picture(f'<p class="missing">{html.escape(alt)} ({NOT_DRAWN})</p>', caption, name, None)
    with canvas(name):
        figure = draw()
        return Picture(inline_svg(figure, name, alt), caption, name, figure)


def png(drawn: Picture) -> bytes:
    """The picture as a PNG in the page's light colours, 200 dots an inch."""
    buffer = io.BytesIO()
    with canvas(drawn.name):
        drawn.figure.savefig(buffer, format="png", dpi=200, facecolor=PAPER, metadata={"Software": None})
    return buffer.getvalue()


def inline_svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as one <svg> element; ids carry `name`, so that pictures on one page do not share them."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)  # a style would leak
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg, count=2)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = svg.replace("'DejaVu Sans'", "var(--font)")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    head = f'<svg role="img" aria-label="{html.escape(alt)}" viewBox="0 0 {width} {height}"{_wide(float(width))}'
    return re.sub(r"<svg[^>]*", lambda _: head, svg, count=1).strip()


def _wide(points: float) -> str:
    """Never wider than drawn; on a phone a wide picture scrolls rather than shrink below legibility."""
    least = f";min-width:{0.85 * points:.0f}pt" if points > 420 else ""
    return f' style="max-width:{points}pt{least}"'
