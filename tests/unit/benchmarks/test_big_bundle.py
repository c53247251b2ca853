"""The program that applies a fold to a bundle of any size, on one of 50 MB; and the bundles it makes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic import run_onnx

from foldrank.benchmarks.big_bundle import measure, rewrite_synced
from foldrank.benchmarks.random_bundle import write_random
from foldrank.bundle.bundle import Bundle
from foldrank.graph.safe.load import load_model
from foldrank.verbs.apply import apply


def test_compares_apply_with_copying_and_with_onnx_ir_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "foldrank.benchmarks.big_bundle", "--bytes", "50M", "--pairs", "1"]
    done = subprocess.run([*command, "--work", str(tmp_path)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert 40e6 < found["output_bytes"] < found["bundle_bytes"] < 80e6
    assert {name: len(times) for name, times in found["seconds"].items()} == {"apply": 1, "copy": 1, "rewrite": 1}
    assert found["ratio_to_copy"]["apply"]["ratio"] > 0
    assert found["peak_within_limit"]
    assert found["peak_bytes_limit"] == (512 << 20) + 2 * found["largest_tensor_bytes"]
    assert list(tmp_path.iterdir()) == []


def test_random_bundle_is_a_bundle_a_runtime_computes_and_a_rewrite_keeps(tmp_path: Path) -> None:
    dense, plan = write_random(5_000_000, tmp_path / "dense")
    assert Bundle.open(dense.path) == dense
    small = apply(dense, plan, tmp_path / "small")
    rewrite_synced(small.path, tmp_path / "again")
    ids = np.arange(6)
    logits = run_onnx(small.model, ids)
    assert np.isfinite(logits).all()
    assert np.array_equal(logits, run_onnx(tmp_path / "again" / "model.onnx", ids))
    assert not np.allclose(logits, run_onnx(dense.model, ids))


def test_folded_blocks_are_the_upper_ones_bit_for_bit(tmp_path: Path) -> None:
    dense, plan = write_random(5_000_000, tmp_path / "dense")
    old, new = (load_model(b.model).graph.initializers for b in (dense, apply(dense, plan, tmp_path / "small")))
    name = "model.layers.{}.mlp.down_proj.MatMul.weight".format
    tensors = [old[name(2)].const_value, old[name(1)].const_value, new[name(1)].const_value]
    upper, lower, folded = (tensor.numpy().tobytes() for tensor in tensors if tensor is not None)
    assert folded == upper != lower


def test_refuses_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foldrank.benchmarks.big_bundle._DISK", 1 << 40)
    with pytest.raises(OSError, match="GiB needed"):
        measure(5_000_000, tmp_path)
    assert list(tmp_path.iterdir()) == []
