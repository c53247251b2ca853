"""The program that says what planning takes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_families import TINY, save

from foldrank.benchmarks.planning_minutes import main, planned
from foldrank.benchmarks.smollm2_tables import minutes

METHODS = ["--method", "shortgpt:keep=0.5", "--method", "svd:keep=0.9"]


def test_a_row_for_each_method_made_once(tmp_path: Path) -> None:
    model, file = save(TINY["llama"], tmp_path / "model"), tmp_path / "minutes.json"
    for methods in (METHODS[:2], METHODS):
        before = json.loads(file.read_text())["rows"] if file.exists() else []
        ended = CliRunner().invoke(main, [str(model), "-o", str(file), *methods])
        assert ended.exit_code == 0, ended.output
    found = json.loads(file.read_text())
    assert [row["method"] for row in found["rows"]] == METHODS[1::2]
    assert found["rows"][0] == before[0], "what was measured is not measured again"
    assert all(row["cpu_s"] > 0 and 0 < row["wall_s"] < 600 for row in found["rows"])
    assert all(1 << 26 < row["peak_rss_bytes"] < 1 << 32 for row in found["rows"])
    assert "| `svd:keep=0.9` |" in minutes(found)


def test_a_method_that_fails_has_no_row(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        planned(save(TINY["llama"], tmp_path / "model"), "shortgpt:keep=7")
