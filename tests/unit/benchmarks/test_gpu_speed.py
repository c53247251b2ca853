"""Rivals by name: each is made of the parts that its name says, and what is there is taken, not made again."""

from pathlib import Path

import pytest

from foldrank.benchmarks.gpu_speed import PLANS, Asked, bundles, plan_of
from foldrank.benchmarks.random_checkpoint import shape_of, write_checkpoint
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.model.checkpoint import Checkpoint

PARAMETERS = 2_000_000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = write_checkpoint(shape_of(PARAMETERS), tmp_path_factory.mktemp("speed") / "checkpoint")
    return Checkpoint.open(folder, offline=True)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_has_the_edits_of_its_name(checkpoint: Checkpoint, name: str) -> None:
    kinds = {type(edit) for edit in plan_of(name, checkpoint, 0).document.edits}
    said = {"fold 0.75": FoldBlocks, "low rank 0.8": LowRank, "low rank 0.6": LowRank, "int4": QuantizeWeight}
    assert kinds == {said[part] for part in name.split(", ")}


def test_bundles_that_are_there_are_taken(tmp_path: Path) -> None:
    asked = Asked("cpu", "fp32", (), (), ("fold 0.75, int4",))
    first = bundles(tmp_path, PARAMETERS, asked)
    assert list(first) == ["dense", "fold 0.75, int4"]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert bundles(tmp_path, PARAMETERS, asked) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == written
