"""The program that measures what apply costs, on a bundle too small to conclude anything from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from synthetic import PlanMaker, Shape, random_decoder, write_bundle


def test_reports_ratio_interval_and_peak_memory(tmp_path: Path) -> None:
    decoder = random_decoder(Shape())
    dense = write_bundle(decoder, tmp_path / "dense")
    made = PlanMaker(decoder, dense.manifest.source["config_sha256"]).fold((1, 2), {1: 0.0, 2: 1.0})
    (tmp_path / "plan").mkdir()
    made.plan().write(tmp_path / "plan")
    command = [sys.executable, "-m", "foldrank.benchmarks.apply_cost", str(tmp_path / "dense"), str(tmp_path / "plan")]
    found = json.loads(subprocess.run([*command, "--pairs", "2"], capture_output=True, text=True, check=True).stdout)
    assert len(found["apply_seconds"]) == len(found["copy_seconds"]) == 2
    assert found["ci95"][0] <= found["ratio"] <= found["ci95"][1]
    assert 0 < found["peak_bytes_at_start"] <= found["peak_bytes"] < found["peak_bytes_limit"]
    assert found["edits"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dense", "plan"]
