"""A graph as a stranger may have left it: refused soon, in one line."""

from __future__ import annotations

import time
from pathlib import Path

import onnx
import pytest

from foldrank.errors import UnsafeModel
from foldrank.graph.safe.load import load_model


def refused(model: onnx.ModelProto | bytes, folder: Path, match: str) -> None:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    start = time.process_time()  # of this process: others may keep the machine busy
    with pytest.raises(UnsafeModel, match=match) as caught:
        load_model(folder / "model.onnx")
    assert time.process_time() - start < 2
    assert caught.value.exit_code == 4
    assert len(str(caught.value)) < 3000


def entry(model: onnx.ModelProto, key: str, tensor: int = 0) -> onnx.StringStringEntryProto:
    return next(e for e in model.graph.initializer[tensor].external_data if e.key == key)
