"""The limit of an export's proof: fixed, but for a model that itself amplifies rounding."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foldrank.tolerances import GRAPH_PROOF_MOST, GRAPH_PROOF_NOISES
from foldrank.verbs.own_noise import own_limit

IDS = [np.arange(24).reshape(2, 12)]


class Amplifying(torch.nn.Module):
    """Logits that are small differences of large numbers, `lost` times larger than they."""

    def __init__(self, lost: float) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.rand(24, 7, generator=torch.Generator().manual_seed(1)))
        self.lost = lost

    def forward(self, *, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=(self.table[input_ids] + self.lost) - self.lost)


@pytest.mark.parametrize("value", [1e-7, 1e-5, 1.01e-4, 0.01, float("nan")])
def test_no_model_is_asked_where_it_could_not_matter(value: float) -> None:
    assert own_limit(value, 1e-5, None, IDS) == 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_that_amplifies_rounding_is_allowed_some_times_that(dtype: torch.dtype) -> None:
    model = Amplifying(100.0).to(dtype)
    with torch.no_grad():
        table = model.table.double()
        noise = (((table.float() + 100.0) - 100.0).double() - ((table + 100.0) - 100.0)).abs().max() / table.max()
    assert own_limit(2e-5, 1e-5, model, IDS) == pytest.approx(GRAPH_PROOF_NOISES * float(noise), rel=0.1)
    assert model.table.dtype == dtype


def test_it_is_never_above_the_limit_of_validate_and_never_below_the_fixed_one() -> None:
    assert own_limit(2e-5, 1e-5, Amplifying(1e5), IDS) == GRAPH_PROOF_MOST
    assert own_limit(2e-5, 1e-5, Amplifying(0.0), IDS) == 1e-5
