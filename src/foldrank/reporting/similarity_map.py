"""Picture: how alike the blocks' outputs are, block against block, and which neighbours were folded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from foldrank.edits.base import Phase
from foldrank.reporting import lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.parts import Missing, Part, Text
from foldrank.reporting.picture import INK, PAPER, picture
from foldrank.sites import Site

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NONE = Missing("Similarity between blocks was", "foldrank plan MODEL --method slm:keep=0.75 -o PLAN")


def similarity_map(evidence: Evidence) -> list[Part]:
    """The map with the folded windows drawn, or what is missing."""
    measured = lookup.at(evidence.diagnostics, "similarity")
    blocks, matrix = _matrix(measured)
    if matrix is None:
        return [_NONE]
    measure = lookup.text(measured, "measure") or "similarity"
    read = [fold.touch.reads for fold in evidence.edits if fold.phase is Phase.BLOCKS]
    spans = [{part.block for part in parts if isinstance(part, Site)} for parts in read]
    windows = [(float(min(span)), float(max(span))) for span in spans if span]
    alt = f"Map of {measure} between {len(blocks)} blocks, from {matrix.min():.2f} to {matrix.max():.2f}. " + (
        "Folded windows: " + ", ".join(f"blocks {low:.0f} to {high:.0f}" for low, high in windows) + "."
        if windows
        else "No blocks were folded."
    )
    caption = (
        f"{measure[0].upper()}{measure[1:]} between the outputs of the source's blocks on the calibration text. "
        "Frames: blocks that were folded into one."
    )
    drawn = picture(lambda: _draw(blocks, matrix, windows, measure), "similarity", alt, caption)
    return [drawn, *_scores(evidence)]


def _matrix(measured: Any) -> tuple[list[int], np.ndarray[Any, Any] | None]:
    blocks = [int(block) for block in lookup.numbers(measured, "blocks")]
    listed = lookup.at(measured, "matrix")
    found = [lookup.numbers({"row": row}, "row") for row in listed] if isinstance(listed, list) else []
    if not blocks or len(found) != len(blocks) or any(len(row) != len(blocks) for row in found):
        return [], None
    return blocks, np.array(found)


def _draw(blocks: list[int], matrix: np.ndarray[Any, Any], windows: list[tuple[float, float]], measure: str) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(5.0, 4.0))
    axes = figure.add_subplot()
    edges = (blocks[0] - 0.5, blocks[-1] + 0.5)
    image = axes.imshow(matrix, cmap="cividis", interpolation="none", origin="lower", extent=(*edges, *edges))
    for low, high in windows:
        for colour, width in ((INK, 4.0), (PAPER, 1.8)):
            axes.add_patch(
                Rectangle(
                    (low - 0.5, low - 0.5),
                    high - low + 1,
                    high - low + 1,
                    fill=False,
                    edgecolor=colour,
                    linewidth=width,
                    joinstyle="miter",
                )
            )
    step = max(1, round(len(blocks) / 16))
    axes.set_xticks(blocks[::step])
    axes.set_yticks(blocks[::step])
    axes.set_xlabel("block")
    axes.set_ylabel("block")
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, label=measure, shrink=0.9)
    bar.outline.set_visible(False)
    return figure


def _scores(evidence: Evidence) -> list[Part]:
    scored = [
        (lookup.number(w, "low"), lookup.number(w, "high"), lookup.number(w, "similarity"))
        for w in lookup.rows(evidence.diagnostics, "windows")
    ]
    known = [
        f"blocks {low:.0f} to {high:.0f}: {score:.4f}"
        for low, high, score in scored
        if low is not None and high is not None and score is not None
    ]
    if not known:
        return []
    return [
        Text(
            "Similarity of the model's last hidden state with and without each fold, by which the windows were "
            f"chosen: {'; '.join(known)}."
        )
    ]
