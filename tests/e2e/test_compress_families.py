"""The whole `compress` of every family of the table, on tiny random checkpoints."""

from pathlib import Path

import pytest

import foldrank
from tests.nightly import NIGHTLY
from tests.tiny_families import TINY, save

pytestmark = [pytest.mark.slow, NIGHTLY]


@pytest.mark.parametrize("name", [name for name in TINY if "-" not in name])
def test_from_checkpoint_to_report(name: str, shared: Path, tmp_path: Path) -> None:
    model = save(TINY[name], tmp_path / "model", shared)
    made = foldrank.compress(
        model, tmp_path / "out", methods=["slm:keep=0.75"], calibration_tokens=512, validation_tokens=1024
    )
    assert made.json("reports/validate.json")["graph"]["passed"] is True
    assert made.json("reports/bench.json")["verdict"] == "pass"
    assert (made.path / "report.html").is_file()
