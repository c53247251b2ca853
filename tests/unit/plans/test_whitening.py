"""The three metrics against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foldrank.plans.low_rank.whitening import Metric, channel_weights, metric


@pytest.fixture
def gram() -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(50, 7)) * np.array([1, 5, 1, 0.1, 1, 3, 1])
    return x.T @ x


def test_the_heaviest_columns_are_weighted(gram: np.ndarray) -> None:
    found = channel_weights(torch.from_numpy(gram), 0.2, 30.0)
    np.testing.assert_array_equal(found, [1, 30, 1, 1, 1, 30, 1])  # ceil(0.2 * 7) = 2
    assert (channel_weights(torch.from_numpy(gram), 0.0, 30.0) == 1).all()


def test_metrics_are_as_written(gram: np.ndarray) -> None:
    d = np.diag([1.0, 30, 1, 1, 1, 30, 1])
    made = {kind: metric(torch.from_numpy(gram), kind, top_share=0.2, weight=30.0)  # type: ignore[arg-type]
            for kind in ("plain", "gd", "dgd")}
    np.testing.assert_allclose(made["plain"].matrix, gram)
    np.testing.assert_allclose(made["dgd"].matrix, d @ gram @ d)
    squared = made["gd"].matrix.numpy() @ made["gd"].matrix.numpy()
    np.testing.assert_allclose(squared, gram @ d @ d @ gram, rtol=1e-9, atol=1e-9 * squared.max())


@pytest.mark.parametrize("kind", ["plain", "gd", "dgd"])
def test_root_times_its_transpose_is_the_metric(gram: np.ndarray, kind: str) -> None:
    m = metric(torch.from_numpy(gram), kind, top_share=0.2, weight=30.0)  # type: ignore[arg-type]
    np.testing.assert_allclose(m.root @ m.root.T, m.matrix, atol=1e-9 * float(m.matrix.max()))


def test_gd_matches_the_released_form_an_svd_of_g_d(gram: np.ndarray) -> None:
    """Best W' under gd is U_k U_k^T W for the left singular vectors of W^T times a root of the SVD of G D."""
    w = np.random.default_rng(1).normal(size=(7, 5))
    d = np.diag([1.0, 30, 1, 1, 1, 30, 1])
    p, s, _ = np.linalg.svd(gram @ d)
    u = np.linalg.svd(w.T @ p @ np.diag(np.sqrt(s)))[0][:, :2]
    m = metric(torch.from_numpy(gram), "gd", top_share=0.2, weight=30.0).matrix.numpy()
    ours = np.linalg.eigh(w.T @ m @ w)[1][:, -2:]
    np.testing.assert_allclose(ours @ ours.T, u @ u.T, atol=1e-8)


def test_a_singular_metric_has_a_root_too() -> None:
    x = np.random.default_rng(2).normal(size=(3, 7))
    for matrix in (x.T @ x, np.zeros((4, 4))):
        root = Metric(torch.from_numpy(matrix)).root
        np.testing.assert_allclose(root @ root.T, matrix, atol=1e-12)
