"""docs/quality.svg from quality.json: what each method loses against what it keeps, before and after recovery.

One line a method, its best settings at each size. The loss is in nats on a log scale, the log of perplexity over dense:
methods that lose a thousandth and methods that lose everything are seen side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST, MOST = 3e-4, 5.0
"""Nats that the picture shows; what loses less or more stands on its edge."""

OURS = {"auto": "#c1121f", "width": "#b07a00", "dipsvd": "#0b5cad", "slm": "#1b7f3b"}
LOW_RANK = ("svd", "fwsvd", "asvd", "svd_llm", "svd_llm_v2", "basis_sharing", "welore", "afm")
DEPTH = ("shortgpt", "laco", "sleb", "shortened", "unified_skip", "llm_drop", "finercut", "ffn_skip")
WIDTH = ("flap", "cfsp")
MARKERS = "osD^vP"


def best_by_keep(cells: Iterable[Mapping[str, Any]]) -> dict[str, dict[float, tuple[float, float, str]]]:
    """By method's name and keep: share kept and perplexity over dense, medians over seeds, of its best settings (and
    the best kind of recovery, where there was one)."""
    grouped: dict[tuple[str, float, str], list[Mapping[str, Any]]] = {}
    for cell in cells:
        if "perplexity_ratio" in cell:
            grouped.setdefault((cell["method"], cell["keep"], str(cell["recover"])), []).append(cell)
    found: dict[str, dict[float, tuple[float, float, str]]] = {}
    for (method, keep, _), held in sorted(grouped.items()):
        kept, ratio = (median(cell[figure] for cell in held) for figure in ("kept", "perplexity_ratio"))
        known = found.setdefault(method.split(":")[0], {})
        if keep not in known or ratio < known[keep][1]:
            known[keep] = kept, ratio, method
    return found


def picture(found: Mapping[str, Any], path: Path) -> None:
    """One column a model; below it the same after recovery, where any was run."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "foldrank"
    from matplotlib import pyplot

    cells = list(found["cells"].values())
    models = sorted({cell["model"] for cell in cells})
    rows = [row for row in (False, True) if any(bool(cell["recover"]) == row for cell in cells)]
    figure, panels = pyplot.subplots(
        len(rows), len(models), figsize=(4.6 * len(models) + 1.8, 4.0 * len(rows)), squeeze=False,
        sharex=True, sharey=True,
    )
    for panel_row, trained in zip(panels, rows, strict=True):
        for panel, model in zip(panel_row, models, strict=True):
            _panel(panel, [c for c in cells if c["model"] == model and bool(c["recover"]) == trained])
            panel.set_title(f"{model}, after recovery" if trained else model)
        panel_row[0].set_ylabel("loss added, nats a token")
    named = {label: line for panel in panels.flat for line, label in zip(*panel.get_legend_handles_labels(),
                                                                         strict=True)}
    order = [name for name in (*OURS, *LOW_RANK, *DEPTH, *WIDTH) if name in named]
    figure.tight_layout()
    figure.legend([named[name] for name in order], order, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)


def _panel(panel: Axes, cells: Iterable[Mapping[str, Any]]) -> None:
    for name, points in best_by_keep(cells).items():
        line = sorted({(kept, min(max(math.log(ratio), LEAST), MOST)) for kept, ratio, _ in points.values()})
        panel.plot(*zip(*line, strict=True), label=name, ms=4, **_style(name))
    panel.set(xlabel="share of block weights kept", yscale="log", ylim=(LEAST * 0.8, MOST * 1.25))
    panel.grid(alpha=0.25, which="both", lw=0.5)


def _style(name: str) -> dict[str, Any]:
    """Ours thick and coloured, low-rank baselines solid, depth baselines dashed, width baselines dotted."""
    if name in OURS:
        return {"color": OURS[name], "lw": 2.4, "marker": "o", "zorder": 3}
    kin: tuple[str, ...] = next((names for names in (DEPTH, WIDTH) if name in names), LOW_RANK)
    colour, dash = {DEPTH: ("#8a8a8a", "--"), WIDTH: ("#7a5ca8", ":")}.get(kin, ("#e09f3e", "-"))
    marker = MARKERS[kin.index(name) % len(MARKERS)] if name in kin else "x"
    return {"color": colour, "lw": 1.0, "ls": dash, "marker": marker, "markerfacecolor": "white"}
