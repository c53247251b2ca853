"""Picture and table: where the bytes went, dense against this bundle."""

from __future__ import annotations

from matplotlib.figure import Figure

from foldrank.reporting import figures
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.parts import Part, Picture, Table, Text, table
from foldrank.reporting.picture import INK, PAPER, canvas, inline_svg
from foldrank.reporting.weight_bytes import Split, split

_COLOURS = {  # Okabe and Ito: told apart by every kind of colour vision; light and dark in turn within a branch
    "q k v": "#0072b2",
    "o": "#56b4e9",
    "gate up": "#d55e00",
    "down": "#e69f00",
    "embedding": "#7f8790",
    "embedding and head": "#7f8790",
    "head": "#b4bac1",
    "KV cache": "#009e73",
}


def where_bytes_went(evidence: Evidence) -> list[Part]:
    """Bars and table, or why there are none."""
    found = split(evidence)
    if found is None:
        return [
            Text(
                "Not known: config.json or the manifest does not tell every shape and the stored type of this decoder."
            )
        ]
    alt = (
        f"Stacked bars. Weights: dense {figures.size(found.dense)}, this bundle {figures.size(found.here)}. "
        f"Cache of {found.context} positions: dense {figures.size(found.cache.dense)}, "
        f"this bundle {figures.size(found.cache.here)}."
    )
    with canvas("bytes"):
        picture = Picture(
            inline_svg(_draw(found), "bytes", alt), "Weights as stored, and the key/value cache of one row (batch 1)."
        )
    return [picture, _table(found), *_accounted(evidence, found)]


def _draw(found: Split) -> Figure:
    unit, name = (1e9, "GB") if max(found.dense, found.cache.dense) >= 1e9 else (1e6, "MB")
    bars = [
        ("weights, dense", [(s.part, s.dense) for s in found.weights]),
        ("weights, this bundle", [(s.part, s.here) for s in found.weights]),
        ("cache, dense", [("KV cache", found.cache.dense)]),
        ("cache, this bundle", [("KV cache", found.cache.here)]),
    ]
    places = [3.6, 2.7, 1.3, 0.4]
    figure = Figure(figsize=(7.2, 2.9))
    axes = figure.add_subplot()
    total = max(found.dense, found.cache.dense, 1)
    for place, (_, parts) in zip(places, bars, strict=True):
        left = 0.0
        for part, count in parts:
            first = part not in axes.get_legend_handles_labels()[1]
            axes.barh(
                place,
                count / unit,
                left=left,
                height=0.72,
                color=_COLOURS[part],
                edgecolor=PAPER,
                linewidth=1.2,
                label=part if first else None,
            )
            left += count / unit
        axes.text(left + total / unit * 0.012, place, figures.size(sum(c for _, c in parts)), va="center", color=INK)
    axes.set_yticks(places, [name for name, _ in bars])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, total / unit * 1.14)
    axes.grid(axis="x")
    axes.set_xlabel(name)
    figure.legend(loc="outside upper left", ncols=4, handlelength=1, handleheight=1, columnspacing=1.4)
    return figure


def _table(found: Split) -> Table:
    rows = [[s.part, figures.size(s.dense), figures.size(s.here), _left(s.dense, s.here)] for s in found.weights]
    rows.append(
        ["all of these weights", figures.size(found.dense), figures.size(found.here), _left(found.dense, found.here)]
    )
    cache = found.cache
    rows.append(
        [
            f"KV cache, {found.context:,} positions",
            figures.size(cache.dense),
            figures.size(cache.here),
            _left(cache.dense, cache.here),
        ]
    )
    return table(("part", "dense", "this bundle", "left"), "lrrr", [list(row) for row in rows])


def _left(dense: int, here: int) -> str:
    return figures.percent(here / dense) if dense else ""


def _accounted(evidence: Evidence, found: Split) -> list[Part]:
    stored = evidence.sizes.get("model.onnx.data")
    if not stored:
        return []
    return [
        Text(
            f"Computed from the shapes in config.json and plan.json. model.onnx.data holds {figures.size(stored)}; "
            f"the weights above are {figures.percent(found.here / stored)} of it. "
            "The rest is norms, position tables and alignment."
        )
    ]
