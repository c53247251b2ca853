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
from foldrank.plans.bits.lines import Lines, lines_of
from foldrank.plans.models.rounding import FewNumbers, Grid

BATCH = 64
"""Rows after which the rest of the weight is told what they lost: one product in the place of many thin ones."""

SMALL = 128
"""Rows of half a triangle below which it is inverted in one."""

DAMPING = 0.01
"""Share of the Gram's mean diagonal that is added to it: what few tokens say of rare directions is not trusted."""


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
        """By column [O], float64: d^T H d of the difference d, its products in float32."""
        apart = found_IO - wanted_IO
        return ((self.damped_II @ apart).double() * apart).sum(dim=0)


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
    ordered, aim = metric.damped_II[order][:, order], weight[order]
    lines = lines_of(grid, order)
    levels = _spread_errors(aim.clone(), _inverse_factor(ordered), lines)
    held = _placed(levels, grid, order).values[order]
    for _ in range(sweeps):
        if not _visit_again(levels, held, held - aim, ordered, lines):
            break
    return least(metric, weight, _placed(levels, grid, order), Grid.of(weight, storage).nearest(weight))


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


def _inverse_factor(metric_II: Tensor) -> Tensor:
    """U, upper, with H^-1 = U^T U, float32. Taken from H's last row up H = R R^T, R upper; then U = R^-1."""
    return _inverted(torch.linalg.cholesky(metric_II.double().flip((0, 1)))).flip((0, 1)).float()


def _inverted(lower_II: Tensor) -> Tensor:
    """L^-1 of a lower triangular L, by halves: a third of the multiply-adds of solving for I."""
    half = len(lower_II) // 2
    if half < SMALL:
        eye = torch.eye(len(lower_II), dtype=lower_II.dtype, device=lower_II.device)
        return torch.linalg.solve_triangular(lower_II, eye, upper=False)
    first, second, result = slice(half), slice(half, None), torch.zeros_like(lower_II)
    for part in (first, second):
        result[part, part] = _inverted(lower_II[part, part])
    result[second, first] = -result[second, second] @ (lower_II[second, first] @ result[first, first])
    return result


def _placed(levels_IO: Tensor, grid: Grid, order: Tensor) -> FewNumbers:
    """Numbers of rows in this order, each where it stands in the weight."""
    numbers = torch.empty_like(levels_IO, dtype=torch.uint8)
    numbers[order] = levels_IO.to(torch.uint8)
    return FewNumbers(numbers, grid)


def _spread_errors(work_IO: Tensor, factor_II: Tensor, lines: Lines) -> Tensor:
    """Numbers of all rows, as floats; what is given is used up."""
    levels = torch.empty_like(work_IO)
    for start in range(0, len(work_IO), BATCH):
        part, behind = slice(start, start + BATCH), slice(start + BATCH, None)
        lost = lines.spread(levels[part], work_IO[part], factor_II[part, part], start)
        work_IO[behind] -= factor_II[part, behind].T @ lost
    return levels


def _visit_again(levels_IO: Tensor, held_IO: Tensor, off_IO: Tensor, metric_II: Tensor, lines: Lines) -> bool:
    """Give every row the numbers that are best beside the others', in place, and what they stand for; whether any
    changed. `off_IO`: Q - W."""
    pull, changed = metric_II @ off_IO, False
    for start in range(0, len(levels_IO), BATCH):
        part, behind = slice(start, start + BATCH), slice(start + BATCH, None)
        moved = lines.visit(levels_IO[part], held_IO[part], pull[part], metric_II[part, part], start)
        if moved.any():
            changed = True
            pull[behind] += metric_II[part, behind].T @ moved
    return changed
