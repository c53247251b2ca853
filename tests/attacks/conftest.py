"""A sound graph for attacks to begin with."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from synthetic import Shape, random_decoder, write_graph


@pytest.fixture
def model(tmp_path: Path) -> onnx.ModelProto:
    write_graph(random_decoder(Shape(blocks=2)), tmp_path / "model.onnx")
    return onnx.load(tmp_path / "model.onnx", load_external_data=False)
