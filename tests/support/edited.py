"""A synthetic graph with a plan's edits, written as a file."""

from __future__ import annotations

from pathlib import Path

from synthetic import PlanMaker
from synthetic.strategies import Written

from foldrank.graph.safe.load import load_model
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.runtime.quantizer import quantize


def written(folder: Path, source: Written, maker: PlanMaker) -> Path:
    """The edited graph's file; the dense one's lies in `dense`."""
    model, _ = transform(load_model(source.write(folder / "dense")), maker.plan(), quantizer=quantize)
    (folder / "small").mkdir(parents=True)
    write_model(model, folder / "small")
    return folder / "small" / "model.onnx"
