"""Asks the pipeline to refuse a plan over a synthetic graph: with all reasons, and the graph as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from synthetic import Decoder, PlanMaker, Shape, random_decoder, write_graph

from foldrank.graph.safe.load import load_model
from foldrank.passes.pipeline import transform
from foldrank.planfile.plan import Plan

DECODER = random_decoder(Shape(), seed=1)


def graph_of(decoder: Decoder, folder: Path, change: Callable[[onnx.ModelProto], object] | None = None) -> ir.Model:
    """The decoder's graph, loaded; `change` edits the file before."""
    write_graph(decoder, folder / "model.onnx")
    if change is not None:
        proto = onnx.load(folder / "model.onnx", load_external_data=False)
        change(proto)
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
    return load_model(folder / "model.onnx")


def picture(model: ir.Model) -> str:
    """A digest of the whole graph."""
    return hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True)).hexdigest()


def made(decoder: Decoder = DECODER) -> PlanMaker:
    """An empty plan of the decoder."""
    return PlanMaker(decoder, "0" * 64)


def refuses(model: ir.Model, plan: Plan, error: type[Exception], *matches: str) -> None:
    """The pass refuses with all reasons; the model it was given is as before."""
    before = picture(model)
    with pytest.raises(error) as caught:
        transform(model, plan)
    for match in matches:
        assert match in str(caught.value)
    assert picture(model) == before


def node(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """By its name."""
    return next(n for n in proto.graph.node if n.name == name)
