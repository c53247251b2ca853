"""Cost tables of shapes without bundles: sites are those of an exported graph, rows say what a table holds."""

from pathlib import Path

import pytest

from foldrank.benchmarks.cost_table import group_shapes
from foldrank.benchmarks.gpu_costs import described, sites
from foldrank.benchmarks.random_checkpoint import shape_of, write_checkpoint
from foldrank.plans.solver.costs import CostTable, Timing
from foldrank.verbs.export import export
from foldrank.verbs.inspect import inspect


def test_shapes_are_those_of_an_exported_random_checkpoint(tmp_path: Path) -> None:
    shape = shape_of(2_000_000)
    bundle = export(write_checkpoint(shape, tmp_path / "checkpoint"), tmp_path / "dense", dtype="fp32", offline=True)
    assert group_shapes(sites(shape)) == group_shapes(inspect(bundle.path)["sites"])


def test_rows_give_speed_over_dense_at_the_rank_of_a_kept_share() -> None:
    timing = Timing((1000, 1000), 2.0, {100: 1.0, 300: 2.0, 500: 3.0})
    (row,) = described(CostTable((timing,), {"dtype": "fp16"}))
    assert (row["dense_us"], row["bytes_per_s"]) == (2000.0, pytest.approx(1e9))
    assert (row["pays_to_rank"], row["saves_to_rank"]) == (300, 499)
    assert row["speed_of_pairs"]["0.4"] == pytest.approx(2.0 / 1.5)  # rank 200, halfway between two that were measured
    assert row["speed_of_pairs"]["0.6"] == pytest.approx(2.0 / 1.995)  # rank 299
