"""Round a weight to few bits so that its output errs least: what each rounded row lost, the rows behind it make up for.

GPTQ (arXiv 2210.17323), for numbers laid out as MatMulNBits holds them. With H = X^T X over the inputs x, the error of
Q for W is tr (Q - W)^T H (Q - W). Rows are rounded in the order of falling diagonal of H, so that what matters most is
rounded while most rows can still make up for it; the grid of every block stands before that, hence any order serves.
Of H^-1 = U^T U, U upper: once row i is rounded, W_j -= U_ij / U_ii (W_i - Q_i) for the rows j behind it. Then rows are
visited again, each taking the number that is best beside the others as they are (coordinate descent): no step raises
the error. Axes: I inputs, O outputs, G blocks of inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foldrank.edits.storage import FewBits
from foldrank.plans.models.rounding import FewNumbers, Grid, numbered

DAMPING = 0.01
"""Share of the Gram's mean diagonal that is added to it: what few tokens say of rare directions is not trusted."""

BATCH = 32
"""Rows after which the rest of the weight is told what they lost: one product in the place of many thin ones."""


@dataclass(frozen=True)
class Metric:
    """Damped H [I, I] of a Gram matrix, float32."""

    damped_II: Tensor

    @classmethod
    def of(cls, gram_II: Tensor, damping: float = DAMPING) -> Metric:
        """Its damped form; a Gram of zeros is as good as I."""
        mean = float(gram_II.diagonal().mean())
        lift = damping * mean if mean > 0 else 1.0
        return cls((gram_II + lift * torch.eye(len(gram_II), dtype=gram_II.dtype, device=gram_II.device)).float())

    def errors(self, found_IO: Tensor, wanted_IO: Tensor) -> Tensor:
        """By column [O], float64: d^T H d of the difference d."""
        apart = (found_IO - wanted_IO).double()
        return ((self.damped_II.double() @ apart) * apart).sum(dim=0)


def gptq(
    weight_IO: Tensor, gram_II: Tensor, storage: FewBits, *, grid: Grid | None = None, sweeps: int = 0
) -> FewNumbers:
    """W in few bits, its error under the (damped) Gram by column never above that of rounding to nearest.

    `grid`: the scales and zeros it keeps to, MLAS's by default. `sweeps`: how often rows are visited again. With a Gram
    that is a multiple of I it is rounding to nearest. Cost: (1 + sweeps) I^2 O multiply-adds, and I^3 / 2.
    """
    weight = weight_IO.float()
    metric = Metric.of(gram_II)
    grid = grid or Grid.of(weight, storage)
    order = torch.argsort(metric.damped_II.diagonal(), descending=True, stable=True)
    ordered = metric.damped_II[order][:, order]
    rows = _Rows(grid, order)
    levels = _spread_errors(weight[order].clone(), _inverse_factor(ordered), rows)
    for _ in range(sweeps):
        if not _visit_again(levels, weight[order], ordered, rows):
            break
    numbers = torch.empty_like(levels, dtype=torch.uint8)
    numbers[order] = levels.to(torch.uint8)
    return least(metric, weight, FewNumbers(numbers, grid), Grid.of(weight, storage).nearest(weight))


def least(metric: Metric, weight_IO: Tensor, *found: FewNumbers) -> FewNumbers:
    """Of several roundings the better one by column; the first where they are alike."""
    errors_FO = torch.stack([metric.errors(numbers.values, weight_IO) for numbers in found])
    best_O = errors_FO.argmin(dim=0)

    def chosen(parts: list[Tensor]) -> Tensor:
        result = parts[0].clone()
        for number, part in enumerate(parts[1:], 1):
            result[:, best_O == number] = part[:, best_O == number]
        return result

    scales, zeros = chosen([f.grid.scales_GO for f in found]), chosen([f.grid.zeros_GO for f in found])
    return FewNumbers(chosen([f.numbers_IO for f in found]), Grid(scales, zeros, found[0].grid.storage))


class _Rows:
    """Rounds single rows in their order, on the grid."""

    def __init__(self, grid: Grid, order: Tensor) -> None:
        scales = grid.scales_GO
        inverse = torch.where(scales != 0, 1 / scales, torch.zeros_like(scales))
        self._parts = scales, inverse, grid.zeros_GO
        self._blocks = (order // grid.storage.block_size).tolist()
        self._bits = grid.storage.bits

    def level(self, place: int, row_O: Tensor) -> Tensor:
        """The nearest numbers."""
        block = self._blocks[place]
        return numbered(row_O * self._parts[1][block] + self._parts[2][block], self._bits).to(torch.float32)

    def value(self, place: int, level_O: Tensor) -> Tensor:
        """What numbers stand for."""
        block = self._blocks[place]
        return (level_O - self._parts[2][block]) * self._parts[0][block]

    def values(self, levels_IO: Tensor) -> Tensor:
        """Of all rows."""
        scales, _, zeros = self._parts
        return (levels_IO - zeros[self._blocks]) * scales[self._blocks]


def _inverse_factor(metric_II: Tensor) -> Tensor:
    """U, upper, with H^-1 = U^T U, float32. Taken from H's last row up H = R R^T, R upper; then U = R^-1."""
    lower = torch.linalg.cholesky(metric_II.double().flip((0, 1)))
    eye = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, eye, upper=False).flip((0, 1)).float()


def _spread_errors(work_IO: Tensor, factor_II: Tensor, rows: _Rows) -> Tensor:
    """Numbers of all rows, as floats; what is given is used up."""
    levels = torch.empty_like(work_IO)
    pivots = factor_II.diagonal().tolist()
    for start in range(0, len(work_IO), BATCH):
        stop = min(start + BATCH, len(work_IO))
        lost = torch.empty_like(work_IO[start:stop])
        for place in range(start, stop):
            levels[place] = rows.level(place, work_IO[place])
            error = lost[place - start]
            torch.sub(work_IO[place], rows.value(place, levels[place]), out=error)
            error /= pivots[place]
            work_IO[place + 1 : stop].addr_(factor_II[place, place + 1 : stop], error, alpha=-1)
        work_IO[stop:] -= factor_II[start:stop, stop:].T @ lost
    return levels


def _visit_again(levels_IO: Tensor, weight_IO: Tensor, metric_II: Tensor, rows: _Rows) -> bool:
    """Give every row the numbers that are best beside the others', in place; whether any changed."""
    pull = metric_II @ (rows.values(levels_IO) - weight_IO)
    pivots, changed = metric_II.diagonal().tolist(), False
    for start in range(0, len(levels_IO), BATCH):
        stop = min(start + BATCH, len(levels_IO))
        moved = torch.empty_like(levels_IO[start:stop])
        for place in range(start, stop):
            held = rows.value(place, levels_IO[place])
            levels_IO[place] = rows.level(place, held - pull[place] / pivots[place])
            step = moved[place - start]
            torch.sub(rows.value(place, levels_IO[place]), held, out=step)
            pull[place + 1 : stop].addr_(metric_II[place, place + 1 : stop], step)
        if moved.any():
            changed = True
            pull[stop:] += metric_II[start:stop, stop:].T @ moved
    return changed
