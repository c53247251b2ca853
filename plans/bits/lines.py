"""The inner loops of `gptq.py`: a batch of rows, each rounded on its block's grid beside those before it in the batch.

A loop of thousands of small steps costs what it takes to start a step, so it is written twice: in numpy, where that is
a fraction of torch's, for the CPU, and in torch for the rest. Both take tensors and give the same numbers but for ties.
Axes: I inputs in the order of rounding, B those of the batch, O outputs.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.models.rounding import Grid, numbered


class Lines(Protocol):
    """Rows of a weight on a grid, in the order of rounding."""

    def spread(self, levels_BO: Tensor, work_BO: Tensor, factor_BB: Tensor, start: int) -> Tensor:
        """Numbers of rows from `start` on, each less what the rows before it lost, are put into `levels_BO`; what each
        lost, over its pivot [B, O]. `factor_BB`: U of `gptq.py`, its part for these rows."""
        ...

    def visit(self, levels_BO: Tensor, held_BO: Tensor, pull_BO: Tensor, metric_BB: Tensor, start: int) -> Tensor:
        """Rows from `start` on, which stand for `held_BO` and are pulled by `pull_BO` = H (Q - W), are rounded again
        beside the others, in place; how far each moved [B, O]."""
        ...


def lines_of(grid: Grid, order: Tensor) -> Lines:
    """The form for the device that the grid is on. `order`: of each row in its place, where it stands in the weight."""
    return ArrayLines(grid, order) if grid.scales_GO.device.type == "cpu" else TensorLines(grid, order)


class TensorLines:
    """In torch."""

    def __init__(self, grid: Grid, order: Tensor) -> None:
        self._grid, self._inverse = grid, grid.inverse_GO
        self._blocks = (order // grid.storage.block_size).tolist()

    def spread(self, levels_BO: Tensor, work_BO: Tensor, factor_BB: Tensor, start: int) -> Tensor:
        """As Lines says."""
        lost, pivots = torch.empty_like(work_BO), factor_BB.diagonal().tolist()
        for at in range(len(work_BO)):
            row = torch.addmv(work_BO[at], lost[:at].T, factor_BB[:at, at], alpha=-1)
            lost[at] = (row - self._rounded(levels_BO[at], row, start + at)) / pivots[at]
        return lost

    def visit(self, levels_BO: Tensor, held_BO: Tensor, pull_BO: Tensor, metric_BB: Tensor, start: int) -> Tensor:
        """As Lines says."""
        moved, pivots = torch.empty_like(held_BO), metric_BB.diagonal().tolist()
        for at in range(len(held_BO)):
            pull = torch.addmv(pull_BO[at], moved[:at].T, metric_BB[:at, at])
            found = self._rounded(levels_BO[at], held_BO[at] - pull / pivots[at], start + at)
            torch.sub(found, held_BO[at], out=moved[at])
            held_BO[at] = found
        return moved

    def _rounded(self, level_O: Tensor, row_O: Tensor, place: int) -> Tensor:
        """What the nearest numbers stand for; they are put into `level_O`."""
        block = self._blocks[place]
        zero = self._grid.zeros_GO[block]
        level_O.copy_(numbered(row_O * self._inverse[block] + zero, self._grid.storage.bits))
        return (level_O - zero) * self._grid.scales_GO[block]


class ArrayLines:
    """In numpy, on the CPU."""

    def __init__(self, grid: Grid, order: Tensor) -> None:
        self._scales, self._zeros, self._inverse = (
            part.numpy() for part in (grid.scales_GO, grid.zeros_GO, grid.inverse_GO))
        self._blocks = (order // grid.storage.block_size).tolist()
        self._most = 2**grid.storage.bits - 1
        columns = self._scales.shape[1]
        self._value, self._level = np.empty(columns, np.float32), np.empty(columns, np.uint8)

    def spread(self, levels_BO: Tensor, work_BO: Tensor, factor_BB: Tensor, start: int) -> Tensor:
        """As Lines says."""
        lost = torch.empty_like(work_BO)
        levels, work, factor, out = levels_BO.numpy(), work_BO.numpy(), factor_BB.numpy(), lost.numpy()
        row = np.empty_like(self._value)
        for at in range(len(work)):
            np.subtract(work[at], factor[:at, at] @ out[:at], out=row)
            np.subtract(row, self._rounded(levels[at], row, start + at), out=out[at])
            out[at] /= factor[at, at]
        return lost

    def visit(self, levels_BO: Tensor, held_BO: Tensor, pull_BO: Tensor, metric_BB: Tensor, start: int) -> Tensor:
        """As Lines says."""
        moved = torch.empty_like(held_BO)
        levels, held, pulls, metric, out = (
            tensor.numpy() for tensor in (levels_BO, held_BO, pull_BO, metric_BB, moved))
        row = np.empty_like(self._value)
        for at in range(len(held)):
            np.add(pulls[at], metric[at, :at] @ out[:at], out=row)
            row /= -metric[at, at]
            row += held[at]
            found = self._rounded(levels[at], row, start + at)
            np.subtract(found, held[at], out=out[at])
            held[at] = found
        return moved

    def _rounded(self, levels: np.ndarray, row: np.ndarray, place: int) -> np.ndarray:
        """What the nearest numbers stand for, valid until the next call; they are put into `levels`. Rounds as
        `numbered` does."""
        block, value = self._blocks[place], self._value
        np.multiply(row, self._inverse[block], out=value)
        value += self._zeros[block]
        np.clip(value, 0, self._most, out=value)
        value += 0.5
        self._level[:] = value
        levels[:] = self._level
        np.subtract(levels, self._zeros[block], out=value)
        value *= self._scales[block]
        return value
