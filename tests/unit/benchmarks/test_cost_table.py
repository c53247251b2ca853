"""The cost table: graphs that compute what they are timed for, shapes by group, and a file that reads back."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from foldrank.benchmarks.cost_table import ON_GPU_MULTIPLE, group_shapes, measure_costs, narrower_shapes, ranks_of
from foldrank.benchmarks.products import ON_GPU_COPIES, copies_of, write_product
from foldrank.cli.results import cost_rows
from foldrank.edits.storage import FewBits
from foldrank.errors import PlanFormatError
from foldrank.plans.solver.costs import CostTable, Latencies, Narrower, Timing, interpolated
from foldrank.plans.solver.layout import GROUPS
from foldrank.runtime.providers.provider import Provider, resolve


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("rank", [None, 3])
def test_a_timed_graph_computes_the_product_with_other_weights_each_time(
    tmp_path: Path, rank: int | None, copies: int
) -> None:
    import onnxruntime

    path = write_product(tmp_path, (90, 140), rank, np.random.default_rng(0), copies=copies)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((1, 2, 90), dtype=np.float32)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}
    found = session.run(None, {"x": x})
    assert len(found) == copies
    for copy, y in enumerate(found):
        wanted = x @ weights[f"w{copy}.0.0"]
        wanted = wanted if rank is None else wanted @ weights[f"w{copy}.1.0"]
        assert wanted.shape == (1, 2, 140)
        np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)
    assert len({y.tobytes() for y in found}) == copies


@pytest.mark.parametrize("bits", [4, 8])
def test_a_timed_graph_in_few_bits_computes_what_its_numbers_stand_for(tmp_path: Path, bits: Literal[4, 8]) -> None:
    import onnxruntime

    path = write_product(tmp_path, (64, 48), None, np.random.default_rng(0), storage=FewBits(bits, 32, True, 0))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((1, 2, 64), dtype=np.float32)
    packed, scales = (onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer)
    numbers = packed if bits == 8 else np.stack([packed & 15, packed >> 4], axis=-1)
    weight = (numbers.reshape(48, 2, 32).astype(np.float32) - 2 ** (bits - 1)) * scales[:, :, None]
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ weight.reshape(48, 64).T, rtol=1e-3, atol=1e-2)


def test_on_a_gpu_copies_are_more_than_its_cache_holds_and_ranks_are_aligned() -> None:
    cpu, cuda = Provider("cpu"), Provider("cuda")
    assert copies_of((4096, 4096), "fp16", cpu) == 1
    assert copies_of((4096, 4096), "fp16", cuda) == 8  # of 32 MiB each
    assert copies_of((8192, 32768), "fp16", cuda) == 2
    assert copies_of((8, 16), "fp16", cuda) == ON_GPU_COPIES
    assert ranks_of((1792, 4800), cuda)[-1] == 1304
    assert all(rank % ON_GPU_MULTIPLE == 0 for rank in ranks_of((1792, 4800), cuda))
    assert ranks_of((1792, 4800), cpu)[-1] == 1304
    assert any(rank % ON_GPU_MULTIPLE for rank in ranks_of((1792, 4800), cpu))
    assert ranks_of((8, 16), cuda) == (5,)
    assert ranks_of((1, 1), cuda) == ranks_of((1, 1), cpu) == (1,)


def test_sites_stand_alone_and_with_those_that_read_their_input() -> None:
    single = [{"site": f"block.00.{role}", "shape": [8, out]} for role, out in (("q", 8), ("k", 4), ("v", 4))]
    packed = [{"site": "block.00.qkv", "shape": [8, 16]}]
    rest = [{"site": "block.00.down", "shape": [20, 8]}]
    assert group_shapes(packed + rest) == {(8, 16), (20, 8)}
    assert group_shapes(single + rest) == {(8, 16), (8, 8), (8, 4), (20, 8)}


def test_a_narrower_mlp_has_fewer_columns_before_down_and_fewer_rows_in_it() -> None:
    mlp = [{"site": "block.00.down", "shape": [512, 96]}, {"site": "block.00.o", "shape": [96, 96]}]
    single = [{"site": f"block.00.{role}", "shape": [96, 512]} for role in ("gate", "up")]
    packed = [{"site": "block.00.gate_up", "shape": [96, 1024]}]
    down = {(width, 96) for width in (128, 256, 384)}
    joint = {(96, 2 * width) for width in (128, 256, 384)}
    assert narrower_shapes(mlp + packed) == down | joint
    assert narrower_shapes(mlp + single) == down | joint | {(96, width) for width in (128, 256, 384)}
    assert narrower_shapes(mlp + single[1:]) == down | {(96, width) for width in (128, 256, 384)}
    assert narrower_shapes([{"site": "block.00.down", "shape": [32, 8]}]) == set()


def test_times_of_widths_lie_between_those_measured() -> None:
    table = CostTable((Timing((10, 40), 4.0, {1: 1.0}), Timing((20, 10), 3.0, {1: 1.0})), {},
                      (Narrower((10, 20), 2.0), Narrower((10, 10), 1.5)))
    times = Latencies.of(table, {GROUPS[2]: (10, 40), GROUPS[3]: (20, 10)})
    assert [times.site((10, columns), None) for columns in (40, 30, 20, 10, 5)] == [4.0, 3.0, 2.0, 1.5, 1.5]
    assert times.site((15, 10), None) == pytest.approx(2.25), "between (10, 10) and (20, 10)"


def test_a_measured_table_reads_back_and_larger_products_take_longer(tmp_path: Path) -> None:
    table = measure_costs([(1024, 2048), (32, 64)], resolve("cpu", None), threads=1, rounds=5,
                          narrower=[(1024, 256), (32, 64)])
    path = tmp_path / "t.json"
    path.write_text(table.text())
    assert CostTable.read(path) == table
    times = Latencies.of(table, {GROUPS[0]: (1024, 2048), GROUPS[1]: (32, 64)})
    assert times.site((1024, 2048), None) > times.site((32, 64), None)
    assert times.site((1024, 2048), 14) < times.site((1024, 2048), None)
    assert [held.shape for held in table.narrower] == [(1024, 256)]
    assert [(held.shape, set(held.ms)) for held in table.fewer] == [((32, 64), {4, 8}), ((1024, 2048), {4, 8})]
    assert times.site((1024, 2048), None, 4) < times.site((1024, 2048), None)
    half = times.site((1024, 1024), None)
    assert times.site((1024, 1024), None, 4) == pytest.approx(half * times.site((1024, 2048), None, 4)
                                                              / times.site((1024, 2048), None))
    times.check_bits([4, 8])
    with pytest.raises(ValueError, match="1024x2048 in few bits"):
        Latencies.of(CostTable(table.timings, {}), {GROUPS[1]: (32, 64)}).check_bits([4])
    assert times.site((1024, 256), None) < times.site((1024, 512), None) < times.site((1024, 2048), None)
    assert table.environment["threads"] == 1


def test_products_are_of_the_dtype_and_the_tokens_asked_for(tmp_path: Path) -> None:
    model = onnx.load(str(write_product(tmp_path, (9, 14), 3, np.random.default_rng(0), "fp16")))
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
