"""The cost table: graphs that compute what they are timed for, shapes by group, and a file that reads back."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from foldrank.benchmarks.cost_table import group_shapes, measure_costs, product
from foldrank.cli.results import cost_rows
from foldrank.errors import PlanFormatError
from foldrank.plans.solver.costs import CostTable, Latencies, Timing, interpolated
from foldrank.plans.solver.layout import GROUPS
from foldrank.runtime.providers import resolve


@pytest.mark.parametrize("rank", [None, 3])
def test_a_timed_graph_computes_the_product(tmp_path: Path, rank: int | None) -> None:
    import onnxruntime

    model = product((9, 14), rank, np.random.default_rng(0))
    onnx.save(model, str(tmp_path / "m.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((1, 2, 9), dtype=np.float32)
    wanted = x
    for weight in model.graph.initializer:
        wanted = wanted @ onnx.numpy_helper.to_array(weight)
    assert wanted.shape == (1, 2, 14)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], wanted, rtol=1e-4, atol=1e-4)


def test_sites_stand_alone_and_with_those_that_read_their_input() -> None:
    single = [{"site": f"block.00.{role}", "shape": [8, out]} for role, out in (("q", 8), ("k", 4), ("v", 4))]
    packed = [{"site": "block.00.qkv", "shape": [8, 16]}]
    rest = [{"site": "block.00.down", "shape": [20, 8]}]
    assert group_shapes(packed + rest) == {(8, 16), (20, 8)}
    assert group_shapes(single + rest) == {(8, 16), (8, 8), (8, 4), (20, 8)}


def test_a_measured_table_reads_back_and_larger_products_take_longer(tmp_path: Path) -> None:
    table = measure_costs([(1024, 2048), (32, 64)], resolve("cpu", None), threads=1, rounds=5)
    path = tmp_path / "t.json"
    path.write_text(table.text())
    assert CostTable.read(path) == table
    times = Latencies.of(table, {GROUPS[0]: (1024, 2048), GROUPS[1]: (32, 64)})
    assert times.site((1024, 2048), None) > times.site((32, 64), None)
    assert times.site((1024, 2048), 14) < times.site((1024, 2048), None)
    assert table.environment["threads"] == 1


def test_products_are_of_the_dtype_and_the_tokens_asked_for() -> None:
    model = product((9, 14), 3, np.random.default_rng(0), "fp16")
    assert {tensor.data_type for tensor in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    few, many = (measure_costs([(256, 512)], resolve("cpu"), threads=1, rounds=3, tokens=n) for n in (1, 64))
    assert (few.environment["tokens"], many.environment["tokens"]) == (1, 64)
    assert few.environment["dtype"] == "fp32"
    assert many.timings[0].dense_ms > few.timings[0].dense_ms
    assert measure_costs([(8, 16)], resolve("cpu"), threads=1, rounds=1, dtype="fp16").environment["dtype"] == "fp16"
    with pytest.raises(ValueError, match="bf16"):
        measure_costs([(8, 16)], resolve("cpu"), threads=1, dtype="bf16")


def test_times_between_ranks_lie_on_a_line() -> None:
    times = {4: 1.0, 8: 3.0}
    assert [interpolated(times, rank) for rank in (1, 4, 6, 8, 16)] == [1.0, 1.0, 2.0, 3.0, 6.0]


@pytest.mark.parametrize(("dense", "rank"), [(0.5, 0), (1.0, 4), (2.0, 6), (9.0, 8)])
def test_a_pair_pays_up_to_the_rank_at_which_it_takes_as_long(dense: float, rank: int) -> None:
    timing = Timing((30, 40), dense, {4: 1.0, 8: 3.0})
    assert timing.pays_to == rank
    row = cost_rows(CostTable((timing,), {}))[0]
    assert (row["pays_to_rank"], row["saves_to_rank"], row["smallest_rank"]) == (rank, 17, 4)


def test_tables_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Timing((3, 4), 0.0, {1: 1.0})
    path = tmp_path / "t.json"
    path.write_text('{"timings": [], "environment": {}, "schema": "foldrank.costs/1", "more": 1}')
    with pytest.raises(PlanFormatError, match="more"):
        CostTable.read(path)
