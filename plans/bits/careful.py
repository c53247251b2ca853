"""One matrix, or the two of a pair, rounded with care: grid, numbers and scales, each chosen under the inputs' Gram.

Axes: I inputs, O outputs, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foldrank.edits.storage import FewBits
from foldrank.plans.bits.gptq import Metric, gptq, least
from foldrank.plans.bits.scales import fitted, searched
from foldrank.plans.models.rounding import FewNumbers


@dataclass(frozen=True)
class Care:
    """`search`: grids by block rather than MLAS's. `sweeps`: of coordinate descent behind GPTQ. `fit`: scales fitted to
    the numbers in the end."""

    search: bool = True
    sweeps: int = 2
    fit: bool = True

    def rounded(self, weight_IO: Tensor, gram_II: Tensor, storage: FewBits) -> FewNumbers:
        """W [in, out]; by column its error under the damped Gram is never above rounding to nearest's."""
        weight, metric = weight_IO.float(), Metric.of(gram_II)
        grid = searched(weight, metric, storage) if self.search else None
        found = gptq(weight, gram_II, storage, grid=grid, sweeps=self.sweeps)
        return least(metric, weight, fitted(found, weight, metric), found) if self.fit else found

    def rounded_pair(
        self, a_IR: Tensor, b_RO: Tensor, gram_II: Tensor, storage: FewBits, *, given: FewNumbers | None = None
    ) -> tuple[FewNumbers, FewNumbers]:
        """A under the inputs' Gram, or the A that is `given`; then B under that of inputs times the A that is stored,
        made anew so that A B is met as well as it can be."""
        a = given or self.rounded(a_IR, gram_II, storage)
        stored = a.values.double()
        seen = gram_II.double() @ stored
        inner = stored.T @ seen
        lost = a_IR.double() - stored
        aim = b_RO.double() + solved(inner, seen.T @ lost @ b_RO.double())
        return a, self.rounded(aim.float(), inner, storage)


def solved(gram_II: Tensor, right_IO: Tensor) -> Tensor:
    """H^-1 R, H the damped Gram, float64."""
    factor = torch.linalg.cholesky(Metric.of(gram_II).damped_II.double())
    return torch.cholesky_solve(right_IO.double(), factor)
