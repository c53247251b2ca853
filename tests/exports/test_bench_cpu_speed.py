"""The CPU speed program on a model small enough for a test: whole way, right ideals, a verdict. Not its speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nightly import NIGHTLY

from foldrank.benchmarks.cpu_speed import TARGETS, Settings, cpu_speed
from foldrank.benchmarks.random_checkpoint import shape_of


@NIGHTLY
@pytest.mark.slow
def test_compresses_a_random_model_and_measures_it(tmp_path: Path) -> None:
    plans = ("fold", "fold_int4")
    found = cpu_speed(tmp_path, Settings(10**6, plans, contexts=(16,), tokens=8, pairs=20, launches=1))
    shape = shape_of(10**6)
    outer = shape.vocabulary * shape.hidden + shape.hidden
    block = (shape.parameters - outer) // shape.blocks
    few = block * (4 / 8 + 4 / 32) / 4  # 4 bits a weight and a scale of 4 bytes for 32 of them, over 4 bytes
    ideals = {"fold": (12 * block + outer) / (8 * block + outer), "fold_int4": (12 * block + outer) / (8 * few + outer)}
    assert {(entry["plan"], entry["engine"]) for entry in found["decoding"]} == {
        (plan, engine) for plan in plans for engine in ("genai", "onnxruntime")}
    for entry in found["decoding"]:
        assert entry["ideal"] == pytest.approx(ideals[entry["plan"]], rel=0.05)
        assert 0.2 < entry["realised_over_ideal"] < 5
    assert len(found["benches"]["fold"]["null_test"]["rows"]) == 4
    realised = [entry["realised_over_ideal"] for entry in found["decoding"] if entry["plan"] == "fold"]
    held = {target["target"]: target for target in found["targets"]}["fold, realised over ideal"]
    assert (held["limit"], held["value"]) == (TARGETS["fold"], min(realised))
    assert held["reached"] is (min(realised) >= TARGETS["fold"])
    assert {(null["engine"], null["launches"]) for null in found["null_tests"]} == {("genai", 2), ("onnxruntime", 2)}
    for null in found["null_tests"]:  # one dense bundle was in both runs: their pairs count together
        pairs = [ratio for bench in found["benches"].values() for row in bench["null_test"]["rows"]
                 if (row["engine"], row["phase"]) == (null["engine"], "decode")
                 for launch in row["pair_ratios"] for ratio in launch]
        assert len(pairs) == 40
        assert null["ratio"] == np.median(pairs)
    width, distance = found["targets"][-2:]
    assert width["value"] == max(null["ci95"][1] - null["ci95"][0] for null in found["null_tests"])
    assert width["reached"] is (width["value"] <= 0.02)
    assert distance["reached"] is all(null["ci95"][0] <= 1.0 <= null["ci95"][1] for null in found["null_tests"])
