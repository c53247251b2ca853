"""Laws of METHODS for low rank, on random weights and inputs; oracles are numpy, written from the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foldrank.edits.low_rank import rank_limit
from foldrank.plans.low_rank.truncation import Truncations, decompose, truncations
from foldrank.plans.low_rank.whitening import Metric, metric

SHAPES = st.sampled_from([(9, 5), (5, 9), (7, 12), (12, 7), (8, 8), (3, 14)])
SEEDS = st.integers(0, 10_000)
KINDS = st.sampled_from(["plain", "gd", "dgd"])


def draw(shape: tuple[int, int], seed: int, tokens: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """x [tokens, in], correlated and of uneven scale, and W [in, out]."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(shape[0], shape[0])) * rng.uniform(0.1, 3, size=shape[0])
    return rng.normal(size=(tokens, shape[0])) @ mixing, rng.normal(size=shape)


def approximation(weight: np.ndarray, m: Metric, rank: int) -> np.ndarray:
    """W' of a rank, in float64, from the basis."""
    basis, _ = decompose(torch.from_numpy(weight), m)
    u = basis.numpy()[:, :rank]
    return weight @ u @ u.T


def gram_metric(x: np.ndarray) -> Metric:
    return Metric(torch.from_numpy(x.T @ x))


@settings(max_examples=40, deadline=None)
@given(SHAPES, SEEDS)
def test_loss_on_the_inputs_is_the_sum_of_the_dropped_eigenvalues(shape: tuple[int, int], seed: int) -> None:
    x, w = draw(shape, seed)
    _, losses = decompose(torch.from_numpy(w), gram_metric(x))
    assert len(losses) == min(shape) + 1
    singular = np.linalg.svd(x @ w, compute_uv=False)
    for rank in range(min(shape) + 1):
        error = np.linalg.norm(x @ (w - approximation(w, gram_metric(x), rank))) ** 2
        assert error == pytest.approx(losses[rank], rel=1e-7, abs=1e-9 * losses[0])
        assert losses[rank] == pytest.approx((singular[rank:] ** 2).sum(), rel=1e-7, abs=1e-9 * losses[0])


@settings(max_examples=25, deadline=None)
@given(SHAPES, SEEDS, KINDS)
def test_no_other_candidate_of_the_rank_is_better(shape: tuple[int, int], seed: int, kind: str) -> None:
    x, w = draw(shape, seed)
    m = metric(torch.from_numpy(x.T @ x), kind, top_share=0.2, weight=5.0)  # type: ignore[arg-type]
    matrix, rng, rank = m.matrix.numpy(), np.random.default_rng(seed + 1), max(1, min(shape) // 2)

    def loss(candidate: np.ndarray) -> float:
        return float(np.trace((w - candidate).T @ matrix @ (w - candidate)))

    best = approximation(w, m, rank)
    u, s, v = np.linalg.svd(best)
    for scale in (1.0, 0.1, 0.01):
        other, _ = np.linalg.qr(np.linalg.svd(best)[2][:rank].T + scale * rng.normal(size=(shape[1], rank)))
        assert loss(best) <= loss(w @ other @ other.T) * (1 + 1e-9)
        left = u[:, :rank] * s[:rank] + scale * rng.normal(size=(shape[0], rank))
        right = v[:rank] + scale * rng.normal(size=(rank, shape[1]))
        assert loss(best) <= loss(left @ right) * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([(5, 9), (7, 12)]))
def test_any_root_of_the_metric_gives_the_same_weight(seed: int, shape: tuple[int, int]) -> None:
    x, w = draw(shape, seed)
    m = gram_metric(x)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(shape[0], shape[0])))
    turned = Metric(m.matrix)
    turned.__dict__["root"] = m.root @ torch.from_numpy(rotation)
    symmetric = Metric(m.matrix)
    values, vectors = torch.linalg.eigh(m.matrix)
    symmetric.__dict__["root"] = vectors * values.clamp_min(0).sqrt() @ vectors.T
    for other in (turned, symmetric):
        np.testing.assert_allclose(approximation(w, other, 3), approximation(w, m, 3), atol=1e-7 * np.abs(w).max())


@settings(max_examples=25, deadline=None)
@given(SHAPES, SEEDS, st.integers(1, 30))
def test_full_rank_is_exact_even_with_fewer_tokens_than_channels(
    shape: tuple[int, int], seed: int, tokens: int
) -> None:
    x, w = draw(shape, seed, tokens)
    np.testing.assert_allclose(approximation(w, gram_metric(x), min(shape)), w, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(SHAPES, SEEDS, KINDS)
def test_losses_never_rise_with_rank_and_pairs_are_nested(shape: tuple[int, int], seed: int, kind: str) -> None:
    x, w = draw(shape, seed)
    parts = truncations(torch.from_numpy(w), metric(
        torch.from_numpy(x.T @ x), kind, top_share=0.2, weight=30.0))  # type: ignore[arg-type]
    assert (np.diff(parts.losses) <= 1e-12).all()
    assert parts.shares[0] == 1.0
    assert parts.shares[-1] == 0.0
    limit = rank_limit(*shape)
    small, large = parts.pair(max(1, limit - 1)), parts.pair(limit)
    assert torch.equal(large[0][:, : small[0].shape[1]], small[0])
    assert large[0].dtype == large[1].dtype == torch.float32


@settings(max_examples=25, deadline=None)
@given(SHAPES, SEEDS, KINDS)
def test_permuting_channels_commutes(shape: tuple[int, int], seed: int, kind: str) -> None:
    x, w = draw(shape, seed)
    order = np.random.default_rng(seed).permutation(shape[0])

    def made(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        m = metric(torch.from_numpy(x.T @ x), kind, top_share=0.2, weight=30.0)  # type: ignore[arg-type]
        return approximation(w, m, 2)

    np.testing.assert_allclose(made(x[:, order], w[order]), made(x, w)[order], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(SHAPES, SEEDS, KINDS, st.sampled_from([1e-6, 1e-2, 1e4]))
def test_scaling_the_inputs_leaves_the_weight(shape: tuple[int, int], seed: int, kind: str, scale: float) -> None:
    x, w = draw(shape, seed)
    made = [
        approximation(w, metric(torch.from_numpy(s * s * x.T @ x), kind, top_share=0.2, weight=30.0), 2)  # type: ignore[arg-type]
        for s in (1.0, scale)
    ]
    np.testing.assert_allclose(made[1], made[0], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(SHAPES, SEEDS)
def test_weight_one_makes_every_whitening_plain(shape: tuple[int, int], seed: int) -> None:
    x, _ = draw(shape, seed)
    gram = torch.from_numpy(x.T @ x)
    for kind in ("gd", "dgd"):
        found = metric(gram, kind, top_share=0.3, weight=1.0).matrix  # type: ignore[arg-type]
        np.testing.assert_allclose(found, gram, atol=1e-9 * float(gram.max()))


@pytest.mark.parametrize("shape", [(9, 5), (5, 9)])
def test_a_zero_channel_and_a_dominant_one(shape: tuple[int, int]) -> None:
    x, w = draw(shape, 7)
    x[:, 1] = 0.0
    x[:, 2] *= 1e6
    for rank in range(1, min(shape) + 1):
        made = approximation(w, gram_metric(x), rank)
        best = (np.linalg.svd(x @ w, compute_uv=False)[rank:] ** 2).sum()
        assert np.isfinite(made).all()
        assert np.linalg.norm(x @ (w - made)) ** 2 <= best * (1 + 1e-6) + 1e-9 * np.linalg.norm(x @ w) ** 2


@pytest.mark.parametrize("shape", [(9, 5), (5, 9)])
def test_zero_weight_and_zero_inputs_give_finite_pairs(shape: tuple[int, int]) -> None:
    x, w = draw(shape, 8)
    for gram, weight in ((x.T @ x, np.zeros(shape)), (np.zeros((shape[0], shape[0])), w)):
        parts: Truncations = truncations(torch.from_numpy(weight), Metric(torch.from_numpy(gram)))
        a, b = parts.pair(2)
        assert torch.isfinite(a).all()
        assert torch.isfinite(b).all()
        assert not np.isnan(parts.shares).any()


@settings(max_examples=25, deadline=None)
@given(SHAPES, SEEDS)
def test_rows_of_b_are_orthonormal_so_the_middle_is_never_larger_than_the_output(
    shape: tuple[int, int], seed: int
) -> None:
    x, w = draw(shape, seed)
    a, b = truncations(torch.from_numpy(w), gram_metric(x)).pair(rank_limit(*shape))
    np.testing.assert_allclose(b @ b.T, np.eye(len(b)), atol=1e-5)
    middle, output = np.linalg.norm(x @ a.numpy(), axis=1), np.linalg.norm(x @ w, axis=1)
    assert (middle <= output * (1 + 1e-4)).all()
