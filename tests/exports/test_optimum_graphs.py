"""The graphs kept of optimum-onnx (optimum_graphs.py) are those it writes, where its environment is."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import onnx
import pytest
from continued import optimum_python
from nightly import NIGHTLY
from onnx import numpy_helper
from optimum_graphs import FAMILIES, GRAPH, RECORDED, checkpoint, emptied, filled, written

pytest.importorskip("transformers")


@pytest.mark.parametrize("family", FAMILIES)
def test_emptied_again_a_filled_graph_is_the_one_that_is_kept(family: str, tiny_models: Path) -> None:
    folder = tiny_models / family
    again = emptied(folder / "optimum" / "model.onnx", folder / "checkpoint")
    assert again.SerializeToString() == gzip.decompress((RECORDED / family / GRAPH).read_bytes())


def test_no_weight_is_kept(tmp_path: Path, tiny_models: Path) -> None:
    """Each initializer is filled, and another checkpoint of the family fills each otherwise."""
    other = checkpoint("gemma2", tmp_path / "checkpoint", seed=1)
    first, second = (onnx.load(folder / "model.onnx").graph.initializer for folder in (
        tiny_models / "gemma2" / "optimum", filled("gemma2", other, tmp_path / "optimum")))
    assert all(not np.array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))
               for a, b in zip(first, second, strict=True))


@pytest.mark.slow
@NIGHTLY
@pytest.mark.parametrize("family", FAMILIES)
def test_optimum_writes_the_graph_that_is_kept(family: str, tiny_models: Path, tmp_path: Path) -> None:
    if (python := optimum_python()) is None:
        pytest.skip("no environment with optimum-onnx: make optimum-env")
    weights = tiny_models / family / "checkpoint"
    made = emptied(written(python, weights, tmp_path / "optimum"), weights)
    assert made.SerializeToString() == gzip.decompress((RECORDED / family / GRAPH).read_bytes())
