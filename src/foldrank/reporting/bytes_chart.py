"""Picture and table: where the bytes went, dense against this bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foldrank.reporting import figures
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.parts import Part, Table, Text, table
from foldrank.reporting.picture import INK, PAPER, picture
from foldrank.reporting.weight_bytes import ROTATION, Share, Split, split

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {  # Okabe and Ito: told apart by every kind of colour vision; light and dark in turn within a branch
    "q k v": "#0072b2",
    "o": "#56b4e9",
    "gate up": "#d55e00",
    "down": "#e69f00",
    "embedding": "#7f8790",
    "embedding and head": "#7f8790",
    "head": "#b4bac1",
    ROTATION: "#cc79a7",
    "KV cache": "#009e73",
}


Bar = tuple[str, float, list[tuple[str, int]]]
"""Label, height on the axis, bytes by part."""

_UNKNOWN = Text("Not known: config.json and the manifest do not tell every shape and the stored type of this decoder.")


def where_bytes_went(evidence: Evidence) -> list[Part]:
    """Bars and table, or why there are none. A dense bundle is shown alone."""
    found = split(evidence)
    if found is None:
        return [_UNKNOWN]
    bars = _bars(found, compressed=evidence.plan is not None)
    alt = "Stacked bars. " + " ".join(f"{name.capitalize()}: {figures.size(_sum(parts))}." for name, _, parts in bars)
    caption = f"Weights as stored, and the key/value cache of one row (batch 1) at {found.context:,} positions."
    bars_drawn = picture(lambda: _draw(bars), "bytes", alt, caption)
    return [bars_drawn, _table(found, compressed=evidence.plan is not None), *_accounted(evidence, found)]


def _bars(found: Split, *, compressed: bool) -> list[Bar]:
    cache = found.cache
    if not compressed:
        weights = [(share.part, share.here) for share in found.weights]
        return [("weights", 1.3, weights), ("cache", 0.4, [(cache.part, cache.here)])]
    return [
        ("weights, dense", 3.6, [(share.part, share.dense) for share in found.weights]),
        ("weights, this bundle", 2.7, [(share.part, share.here) for share in found.weights]),
        ("cache, dense", 1.3, [(cache.part, cache.dense)]),
        ("cache, this bundle", 0.4, [(cache.part, cache.here)]),
    ]


def _sum(parts: list[tuple[str, int]]) -> int:
    return sum(count for _, count in parts)


def _draw(bars: list[Bar]) -> Figure:
    from matplotlib.figure import Figure

    longest = max(1, *(_sum(parts) for _, _, parts in bars))
    unit, name = (1e9, "GB") if longest >= 1e9 else (1e6, "MB")
    figure = Figure(figsize=(7.2, 1.1 + 0.45 * len(bars)))
    axes = figure.add_subplot()
    for _, place, parts in bars:
        _stack(axes, place, [(part, count / unit) for part, count in parts])
        axes.text((_sum(parts) + 0.012 * longest) / unit, place, figures.size(_sum(parts)), va="center", color=INK)
    axes.set_yticks([place for _, place, _ in bars], [name for name, _, _ in bars])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, longest / unit * 1.14)
    axes.grid(axis="x")
    axes.set_xlabel(name)
    figure.legend(loc="outside upper left", ncols=4, handlelength=1, handleheight=1, columnspacing=1.4)
    return figure


def _stack(axes: Axes, place: float, parts: list[tuple[str, float]]) -> None:
    """One bar; a part is named in the legend the first time it is drawn."""
    left, known = 0.0, axes.get_legend_handles_labels()[1]
    for part, width in parts:
        label = None if part in known else part
        axes.barh(
            place, width, left=left, height=0.72, color=_COLOURS[part], edgecolor=PAPER, linewidth=1.2, label=label
        )
        left += width


def _table(found: Split, *, compressed: bool) -> Table:
    shares = [
        *found.weights,
        Share("all of these weights", found.dense, found.here),
        *([found.read] if found.read.here != found.blocks.here else []),
        Share(f"KV cache, {found.context:,} positions", found.cache.dense, found.cache.here),
    ]
    if not compressed:
        return table(("part", "bytes"), "lr", [[share.part, figures.size(share.here)] for share in shares])
    rows: list[list[str]] = [
        [s.part, figures.size(s.dense), figures.size(s.here), figures.percent(s.here / s.dense) if s.dense else "new"]
        for s in shares
    ]
    return table(("part", "dense", "this bundle", "left"), "lrrr", [list(row) for row in rows])


def _accounted(evidence: Evidence, found: Split) -> list[Part]:
    """How much of the stored file the shapes explain."""
    stored = evidence.sizes.get("model.onnx.data")
    if not stored:
        return []
    files = "config.json and plan.json" if evidence.plan is not None else "config.json"
    return [
        Text(
            f"Computed from the shapes in {files}. model.onnx.data holds {figures.size(stored)}; the weights above are "
            f"{figures.percent(found.here / stored)} of it. The rest is norms, position tables and alignment."
        )
    ]
