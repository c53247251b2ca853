"""The limit of an export's proof: fixed, but for a model that itself amplifies rounding."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foldrank.runtime.proof.compare import Comparison
from foldrank.runtime.proof.graph_proof import Criterion
from foldrank.tolerances import GRAPH_PROOF_FP32, GRAPH_PROOF_MOST, GRAPH_PROOF_NOISES, GRAPH_PROOF_RARE
from foldrank.verbs.own_noise import own_limit

IDS = np.arange(24).reshape(2, 12)
FEW = 2
"""Positions of a thousand that err."""


def found(error: float, *, erring: int = 1_000) -> Comparison:
    """A graph that is so far off at so many positions of a thousand, at IDS."""
    comparison, wanted = Comparison("the graph"), np.zeros((1_000, 3))
    wanted[:, 0] = 1.0
    comparison.add(wanted, wanted + error * (np.arange(1_000) < erring)[:, None], IDS)
    return comparison


class Amplifying(torch.nn.Module):
    """Logits that are small differences of large numbers, `lost` times larger than they."""

    def __init__(self, lost: float) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.rand(24, 7, generator=torch.Generator().manual_seed(1)))
        self.lost = lost

    def forward(self, *, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=(self.table[input_ids] + self.lost) - self.lost)


@pytest.mark.parametrize(("error", "erring"), [(1e-7, 1_000), (0.99e-5, 1_000), (1.01e-4, 1_000), (0.01, 1_000),
                                               (1.01e-4, 20), (1.01e-3, FEW)])
def test_no_model_is_asked_where_it_could_not_matter(error: float, erring: int) -> None:
    assert own_limit([found(error, erring=erring)], 1e-5, None) == 1e-5
    assert own_limit([], 1e-5, None) == 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_that_amplifies_rounding_is_allowed_some_times_that(dtype: torch.dtype) -> None:
    model = Amplifying(100.0).to(dtype)
    with torch.no_grad():
        table = model.table.double()
        noise = (((table.float() + 100.0) - 100.0).double() - ((table + 100.0) - 100.0)).abs().max() / table.max()
    limit = own_limit([found(1e-7), found(2e-5)], 1e-5, model)
    assert limit == pytest.approx(GRAPH_PROOF_NOISES * float(noise), rel=0.1)
    assert model.table.dtype == dtype


def test_it_is_never_above_the_limit_of_validate_and_never_below_the_fixed_one() -> None:
    assert own_limit([found(2e-5)], 1e-5, Amplifying(1e5)) == GRAPH_PROOF_MOST
    assert own_limit([found(2e-5)], 1e-5, Amplifying(0.0)) == 1e-5


def test_more_is_allowed_where_few_positions_err_and_only_there() -> None:
    amplifying = Amplifying(1e5)
    assert own_limit([found(2e-4, erring=FEW)], 1e-5, amplifying) == GRAPH_PROOF_RARE
    assert own_limit([found(2e-4, erring=FEW), found(2e-5)], 1e-5, amplifying) == 1e-5
    assert own_limit([found(0.9e-4, erring=FEW), found(2e-5)], 1e-5, amplifying) == GRAPH_PROOF_MOST
    assert own_limit([found(2e-4, erring=FEW)], 1e-5, Amplifying(0.0)) == 1e-5


def test_a_copy_that_does_not_fit_into_memory_is_not_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=24 * 7 * 8 - 1))
    assert own_limit([found(2e-5)], 1e-5, Amplifying(1e5)) == 1e-5
    assert "float64" in caplog.text
    assert own_limit([found(2e-5)], 1e-5, Amplifying(1e5).double()) == GRAPH_PROOF_MOST, "a float32 copy is half of it"


def test_a_margin_counts_as_if_the_graph_were_so_much_farther_off() -> None:
    amplifying = Amplifying(1e5)
    assert own_limit([found(0.6e-5)], 1e-5, amplifying) == 1e-5
    assert own_limit([found(0.6e-5)], 1e-5, amplifying, margin=2.0) == GRAPH_PROOF_MOST
    assert own_limit([found(0.6e-4)], 1e-5, amplifying, margin=2.0) == 1e-5


def test_a_limit_for_few_positions_holds_for_few_only() -> None:
    criterion = Criterion("fp32", GRAPH_PROOF_RARE)
    assert criterion.passed(found(2e-4, erring=FEW))
    assert criterion.limit(found(2e-4, erring=FEW)) == GRAPH_PROOF_RARE
    assert not criterion.passed(found(2e-5))
    assert criterion.limit(found(2e-5)) == GRAPH_PROOF_FP32
    assert Criterion("fp32", GRAPH_PROOF_MOST).passed(found(2e-5))
