"""Bytes of all weights against nats lost, one point a row of a campaign on a real model, and the front of them:

    python -m foldrank.benchmarks.front_picture benchmarks/results/front_smollm2.json docs/front_smollm2.svg
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from foldrank.benchmarks.quality_picture import DEPTH, LOW_RANK, OURS, WIDTH

AND, RECOVER = " + ", " + recover "
"""What stands in a row between methods, and before a recovery (`campaigns/smollm2.py`)."""

LEAST = 1e-3
"""Nats that the picture shows; what loses less stands on its edge."""

KIN = (("low rank", LOW_RANK, "#e09f3e", "s"), ("depth and branches", DEPTH, "#8a8a8a", "D"),
       ("width", WIDTH, "#7a5ca8", "v"), ("few bits", ("quantize",), "#1f8a8a", "P"))
"""What the picture calls methods that are not ours alone, their names, colour and marker."""

Point = tuple[float, float]
"""Bytes, and nats lost."""


def points(rows: Iterable[Mapping[str, Any]]) -> dict[str, Point]:
    """Of every row by its method."""
    return {row["method"]: (float(row["bytes"]), max(math.log(row["perplexity_over_dense"]), LEAST)) for row in rows}


def front(found: Iterable[Point]) -> list[Point]:
    """Those that none beats in both, smallest first."""
    best: list[Point] = []
    for size, nats in sorted(found):
        if not best or nats < best[-1][1]:
            best.append((size, nats))
    return best


@click.command()
@click.argument("results", type=click.Path(path_type=Path, exists=True))
@click.argument("picture", type=click.Path(path_type=Path))
def main(results: Path, picture: Path) -> None:
    """Draw the rows of a result."""
    draw(json.loads(results.read_text(encoding="utf-8"))["rows"], picture)


def draw(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """One panel, both axes in logs."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "foldrank"
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(8.2, 5.0))
    found = points(rows)
    groups: dict[str, list[tuple[str, Point]]] = {}
    for method, point in found.items():
        groups.setdefault(kind_of(method), []).append((method, point))
    sizes = [size for size, _ in found.values()]
    middle = math.sqrt(min(sizes) * max(sizes))
    for name, held in sorted(groups.items()):
        colour, marker, kin = _style(name)
        for method, (size, nats) in held:
            panel.plot(size / 1e6, nats, marker, color=colour, ms=7 if kin is None else 5, zorder=3, label=kin or name,
                       markerfacecolor=colour if kin is None or RECOVER in method else "white")
            right = size > middle
            panel.annotate(method.replace(",effort=low", ""), (size / 1e6, nats), xytext=(-6 if right else 6, 3),
                           textcoords="offset points", ha="right" if right else "left", fontsize=6.5, color=colour)
    edge = front(found.values())
    panel.plot([size / 1e6 for size, _ in edge], [nats for _, nats in edge], color="#333333", lw=0.8, ls="--", zorder=1,
               label="front")
    panel.set(xlabel="bytes of all weights, MB (floats in fp32)", ylabel="loss added, nats a token", xscale="log",
              yscale="log")
    panel.grid(alpha=0.25, which="both", lw=0.5)
    named = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    panel.legend(named.values(), named.keys(), frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)


def kind_of(row: str) -> str:
    """The last method of a row, which says what became of the weights, without its settings."""
    return row.split(RECOVER)[0].split(AND)[-1].split(":")[0]


def _style(name: str) -> tuple[str, str, str | None]:
    """Colour, marker, and the kin it is shown with; None: it stands for itself."""
    if name in OURS:
        return OURS[name], "o", None
    return next(((colour, marker, kin) for kin, names, colour, marker in KIN if name in names), ("#000000", "x", name))


if __name__ == "__main__":
    main()
