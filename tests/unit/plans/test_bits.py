"""Rounding that knows its error: what holds for every weight and Gram, and the bytes that hold it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foldrank.edits.storage import FewBits
from foldrank.plans.bits.gptq import Metric, gptq
from foldrank.plans.bits.lines import ArrayLines, TensorLines
from foldrank.plans.bits.scales import fitted, searched
from foldrank.plans.models.packing import Packed, packed, unpacked
from foldrank.plans.models.rounding import Grid, rounded

STORAGES = st.builds(FewBits, st.sampled_from([2, 4, 8]), st.sampled_from([16, 32]), st.booleans(), st.just(0))


def drawn(seed: int, rows: int, columns: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """W [rows, columns], and the Gram of inputs that go together."""
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(rows, rows, generator=random) * torch.rand(rows, generator=random)
    inputs = (torch.randn(tokens, rows, generator=random) @ mix).double()
    return torch.randn(rows, columns, generator=random), inputs.T @ inputs


cases = given(seed=st.integers(0, 2**31), rows=st.integers(1, 80), columns=st.integers(1, 9), storage=STORAGES)


@settings(max_examples=25, deadline=None)
@cases
def test_with_inputs_that_do_not_go_together_it_is_rounding_to_nearest(
    seed: int, rows: int, columns: int, storage: FewBits
) -> None:
    weight, _ = drawn(seed, rows, columns, 1)
    found = gptq(weight, 3 * torch.eye(rows, dtype=torch.float64), storage, sweeps=2)
    assert torch.equal(found.values, rounded(weight, storage))


@settings(max_examples=25, deadline=None)
@cases
def test_its_error_is_never_above_that_of_rounding_to_nearest(
    seed: int, rows: int, columns: int, storage: FewBits
) -> None:
    weight, gram = drawn(seed, rows, columns, 40)
    metric = Metric.of(gram)
    nearest = metric.errors(rounded(weight, storage), weight)
    grid = searched(weight, metric, storage)
    for found in (gptq(weight, gram, storage), gptq(weight, gram, storage, grid=grid, sweeps=2)):
        assert (metric.errors(found.values, weight) <= nearest).all()


def test_it_wins_most_of_what_inputs_that_go_together_allow() -> None:
    weight, gram = drawn(1, 96, 40, 200)
    storage = FewBits(4, 32, True, 0)
    metric = Metric.of(gram)

    def error(values: torch.Tensor) -> float:
        return float(metric.errors(values, weight).sum())

    nearest, plain = error(rounded(weight, storage)), gptq(weight, gram, storage)
    again = gptq(weight, gram, storage, sweeps=3)
    assert error(plain.values) < 0.6 * nearest
    assert error(again.values) < error(plain.values)
    assert error(fitted(again, weight, metric).values) < error(again.values)
    wide = searched(weight, metric, storage)
    assert error(gptq(weight, gram, storage, grid=wide, sweeps=3).values) < error(again.values)


def test_every_pair_of_rows_is_settled_after_sweeps() -> None:
    """Coordinate descent ends where no single number can be bettered: brute force agrees."""
    weight, gram = drawn(2, 32, 3, 50)
    storage = FewBits(4, 16, True, 0)
    found, metric = gptq(weight, gram, storage, sweeps=50), Metric.of(gram)
    least = metric.errors(found.values, weight)
    for row in range(32):
        for step in (-1, 1):
            other = found.numbers_IO.clone().int()
            other[row] = (other[row] + step).clamp(0, 15)
            moved = type(found)(other.to(torch.uint8), found.grid)
            assert (metric.errors(moved.values, weight) >= least * (1 - 1e-6)).all()


@pytest.mark.parametrize("storage", [FewBits(4, 32, True, 0), FewBits(8, 16, False, 0), FewBits(2, 16, False, 0)])
def test_loops_in_numpy_and_in_torch_are_the_published_ones(storage: FewBits) -> None:
    """In float64, every row telling all behind it, and then all pulled anew for every row: the same numbers."""
    weight, gram = drawn(7, 70, 5, 120)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(7))
    grid, metric, aim = Grid.of(weight, storage), Metric.of(gram).damped_II[order][:, order], weight[order]
    factor = torch.linalg.cholesky(metric.double().inverse()).T.float()

    def nearest(row_O: torch.Tensor, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        block = int(order[place]) // storage.block_size
        scale, zero = grid.scales_GO[block].double(), grid.zeros_GO[block].double()
        level = torch.floor((row_O / scale + zero).clamp(0, 2**storage.bits - 1) + 0.5)
        return level, (level - zero) * scale

    work, spread, stands = aim.double().clone(), [], []
    for row in range(70):
        level, value = nearest(work[row], row)
        work[row + 1 :] -= torch.outer((factor[row, row + 1 :] / factor[row, row]).double(), work[row] - value)
        spread.append(level)
        stands.append(value)
    held = torch.stack(stands)
    start, visited = held.float(), []
    for row in range(70):
        pull = metric[row].double() @ (held - aim.double())
        level, held[row] = nearest(held[row] - pull / metric[row, row].double(), row)
        visited.append(level)
    for lines in (ArrayLines(grid, order), TensorLines(grid, order)):
        levels, now = torch.zeros(70, 5), start.clone()
        lines.spread(levels, aim.clone(), factor, 0)
        assert torch.equal(levels, torch.stack(spread).float())
        moved = lines.visit(levels, now, metric @ (start - aim), metric, 0)
        assert torch.equal(levels, torch.stack(visited).float())
        assert torch.allclose(now, held.float(), atol=1e-5)
        assert torch.equal(moved, now - start)


def test_scales_fitted_are_least_squares() -> None:
    weight, gram = drawn(3, 64, 2, 100)
    storage = FewBits(4, 32, False, 0)
    start = Grid.of(weight, storage).nearest(weight)
    found, metric = fitted(start, weight, Metric.of(gram)), Metric.of(gram)
    root = np.linalg.cholesky(metric.damped_II.double().numpy()).T
    steps = start.numbers_IO.double() - start.grid.spread(start.grid.zeros_GO, 64).double()
    for column in range(2):
        held = np.zeros((64, 2))
        held[:32, 0], held[32:, 1] = steps[:32, column], steps[32:, column]
        best = np.linalg.lstsq(root @ held, root @ weight[:, column].double().numpy(), rcond=None)[0]
        assert found.grid.scales_GO[:, column].numpy() == pytest.approx(best, rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 80), columns=st.integers(1, 9), storage=STORAGES)
def test_bytes_say_what_was_packed(seed: int, rows: int, columns: int, storage: FewBits) -> None:
    weight, _ = drawn(seed, rows, columns, 1)
    found = Grid.of(weight, storage).nearest(weight)
    held = packed(found)
    groups = -(-rows // storage.block_size)
    assert (held.numbers.shape, held.scales.shape) == (
        (columns, groups, storage.block_size * storage.bits // 8), (columns, groups))
    assert (held.zeros is None) == storage.symmetric
    assert torch.equal(unpacked(held, storage, rows).values, found.values)


def test_bytes_are_those_of_onnx_runtime() -> None:
    from foldrank.runtime.quantizer import quantize

    weight, _ = drawn(4, 70, 5, 1)
    for storage in (FewBits(bits, 32, symmetric, 0) for bits in (2, 4, 8) for symmetric in (True, False)):  # type: ignore[arg-type]
        held = packed(Grid.of(weight, storage).nearest(weight))
        theirs: Any = Packed(*quantize(weight.numpy(), storage.bits, 32, storage.symmetric))
        assert np.allclose(held.scales, theirs.scales, rtol=1e-6)
        assert np.array_equal(held.numbers[:, :2], theirs.numbers[:, :2])
        one, other = (unpacked(found, storage, 70) for found in (held, theirs))
        assert torch.equal(one.grid.zeros_GO, other.grid.zeros_GO)
