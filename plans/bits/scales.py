"""Grids for few bits: searched before rounding, and fitted to numbers afterwards.

Axes: I inputs, O outputs, G blocks of S inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from foldrank.edits.storage import FewBits
from foldrank.plans.bits.gptq import Metric
from foldrank.plans.models.rounding import FewNumbers, Grid, in_blocks

SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Of the widest range; a narrower one clips few values and rounds all others more finely."""


def searched(weight_IO: Tensor, metric: Metric, storage: FewBits, shares: Sequence[float] = SHARES) -> Grid:
    """By block and column the grid on which rounding to nearest errs least under the Gram's part for the block."""
    widest = Grid.of(weight_IO, storage)
    grids = [replace(widest, scales_GO=widest.scales_GO * share * sign)
             for share in shares for sign in ((1, -1) if storage.symmetric else (1,))]
    own_GSS = _diagonal_blocks(metric.damped_II, storage.block_size)
    best, least = widest, None
    for grid in grids:
        apart = in_blocks(grid.nearest(weight_IO).values - weight_IO, storage.block_size)
        errors_GO = ((own_GSS @ apart) * apart).sum(dim=1)
        better = errors_GO < least if least is not None else torch.ones_like(errors_GO, dtype=torch.bool)
        least = errors_GO if least is None else torch.where(better, errors_GO, least)
        best = replace(best, scales_GO=torch.where(better, grid.scales_GO, best.scales_GO))
    return best


def fitted(given: FewNumbers, weight_IO: Tensor, metric: Metric) -> FewNumbers:
    """The same numbers with the scales that err least under the Gram: a small linear system for each column."""
    grid, size = given.grid, given.grid.storage.block_size
    rows, columns = given.numbers_IO.shape
    steps_IO = given.numbers_IO.to(torch.float32) - grid.spread(grid.zeros_GO, rows)
    count = len(grid.scales_GO)
    systems_OGG = torch.zeros(columns, count, count, device=steps_IO.device)
    for block in range(count):  # the systems are symmetric: half of each is computed
        part, behind = slice(block * size, min((block + 1) * size, rows)), slice(block * size, None)
        seen = metric.damped_II[behind, part] @ steps_IO[part]
        found_OG = in_blocks(seen * steps_IO[behind], size).sum(dim=1).T
        systems_OGG[:, block, block:] = systems_OGG[:, block:, block] = found_OG
    wanted_OG = in_blocks((metric.damped_II @ weight_IO) * steps_IO, size).sum(dim=1).T
    ridge = 1e-6 * systems_OGG.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-30)
    lifted = systems_OGG.double() + torch.diag_embed(ridge.double()[:, None].expand(-1, count))
    aim = wanted_OG.double() + ridge.double()[:, None] * grid.scales_GO.T.double()
    scales = torch.linalg.solve(lifted, aim).T.float().contiguous()
    return replace(given, grid=replace(grid, scales_GO=scales))


def _diagonal_blocks(metric_II: Tensor, size: int) -> Tensor:
    """[G, S, S], zeros where the last block is not full."""
    rows = len(metric_II)
    whole = torch.nn.functional.pad(metric_II, (0, -rows % size, 0, -rows % size))
    count = len(whole) // size
    at = torch.arange(count, device=whole.device)
    return whole.reshape(count, size, count, size)[at, :, at]
