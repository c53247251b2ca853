"""Per-block ratios: gradients against PyTorch's own backward pass, ratios against their rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foldrank.plans.low_rank.allocation import effective_rank, importance, ratios, rescaled, sensitivities
from foldrank.plans.models.decoder import Decoder


def test_sensitivity_is_gradient_over_weight_of_the_models_own_loss(
    make_model: Callable[..., Any], ids: np.ndarray
) -> None:
    model = make_model(3, architecture="qwen2")
    found = sensitivities(Decoder.of(model), ids[:2])
    model.requires_grad_(True)
    for row in torch.from_numpy(ids[:2]):
        model(input_ids=row[None], labels=row[None]).loss.backward()
    wanted = [sum(float(p.grad.norm() / p.detach().norm()) for p in layer.parameters()) for layer in model.model.layers]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_effective_rank_counts_singular_values() -> None:
    states = np.zeros((10, 4))
    states[0, 0], states[1, 1], states[2, 2] = 90.0, 4.0, 6.0
    assert effective_rank(torch.from_numpy(states.T @ states)) == 2
    assert effective_rank(torch.eye(20, dtype=torch.float64)) == 19
    assert 1 <= effective_rank(torch.zeros(4, 4, dtype=torch.float64)) <= 4


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=30), st.floats(0.05, 1), st.sampled_from([-1, 1]))
def test_ratios_average_to_keep_and_follow_the_sign(scores: list[float], keep: float, sign: int) -> None:
    found = ratios(np.array(scores), keep, sign)
    assert found.mean() == pytest.approx(keep, abs=1e-9)
    assert (found > 0).all()
    assert (found <= max(0.98, keep) + 1e-12).all()
    order = np.argsort(scores)
    assert (np.diff(found[order]) * sign >= -1e-12).all()


def test_rescaling_caps_and_gives_the_rest_more() -> None:
    found = rescaled(np.array([0.98, 0.5, 0.5]), 0.8)
    np.testing.assert_allclose(found, [0.98, 0.71, 0.71])


def test_importance_compares_sensitivity_within_a_quarter_only() -> None:
    sensitivity = np.array([1.0, 3.0, 100.0, 300.0, 2.0, 2.0, 5.0, 15.0])
    found = importance(sensitivity, [10] * 8, 20)
    np.testing.assert_allclose(found[0], found[2])
    np.testing.assert_allclose(found[1], 0.75**0.3 * 0.5**0.7)
