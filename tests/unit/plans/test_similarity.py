"""Cosine against numpy, debiased CKA against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foldrank.plans.depth.similarity import debiased_cka, mean_cosine


def test_cosine_is_per_sample_then_averaged() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 5, 7))
    wanted = np.mean([x.ravel() @ y.ravel() / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)])
    found = mean_cosine(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(wanted, rel=1e-12)
    assert found != pytest.approx(wanted * 1.01)
    assert mean_cosine(torch.from_numpy(a), torch.from_numpy(-3 * a)) == pytest.approx(-1)


def test_cosine_never_passes_one_and_takes_zeros() -> None:
    a = torch.full((2, 3, 5), 0.1)
    assert mean_cosine(a, a) <= 1.0
    assert mean_cosine(a, torch.zeros_like(a)) == 0.0


def u_statistic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """HSIC_1 of Song et al. 2012, equation 5, term by term."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    means = one @ k @ one * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + means - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def test_debiased_cka_is_the_u_statistic() -> None:
    rng = np.random.default_rng(1)
    x, noise = rng.normal(size=(30, 6)), rng.normal(size=(30, 9))
    states = [x + 2, x @ rng.normal(size=(6, 9)) + noise, noise]
    grams = [s @ s.T for s in states]
    wanted = np.array([
        [u_statistic(k, m) / np.sqrt(u_statistic(k, k) * u_statistic(m, m)) for m in grams] for k in grams
    ])
    np.testing.assert_allclose(debiased_cka(states), wanted, rtol=1e-9, atol=1e-12)


def test_debiased_cka_of_independent_noise_is_about_zero_where_the_biased_one_is_not() -> None:
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=(2, 64, 200))
    assert abs(debiased_cka([one, other])[0, 1]) < 0.05
    k, m = (s - s.mean(axis=0) for s in (one, other))
    biased = np.linalg.norm(k.T @ m) ** 2 / (np.linalg.norm(k.T @ k) * np.linalg.norm(m.T @ m))
    assert biased > 0.5


def test_debiased_cka_ignores_rotation_scale_and_shift() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, 5))
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    np.testing.assert_allclose(debiased_cka([x, 7 * x @ rotation + 3])[0, 1], 1.0, rtol=1e-9)


def test_debiased_cka_needs_four_samples() -> None:
    with pytest.raises(ValueError, match="four samples"):
        debiased_cka([np.ones((3, 2))])
