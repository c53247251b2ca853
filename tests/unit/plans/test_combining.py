"""Several pairs on one site become one: oracles are numpy in float64, written from the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foldrank.plans.low_rank.combining import clustered, side_by_side, truncated
from foldrank.plans.models.block import Pair

INS, OUTS = 24, 17


def pair(rank: int, seed: int) -> Pair:
    random = torch.Generator().manual_seed(seed)
    return Pair(torch.randn(INS, rank, generator=random), torch.randn(rank, OUTS, generator=random))


def product(*pairs: Pair) -> np.ndarray:
    return np.asarray(sum(p.a.numpy().astype(np.float64) @ p.b.numpy().astype(np.float64) for p in pairs))


@pytest.mark.parametrize("ranks", [(3, 4, 2), (12, 9)])
def test_side_by_side_they_are_their_sum_of_full_rank_at_most(ranks: tuple[int, ...]) -> None:
    pairs = [pair(rank, seed) for seed, rank in enumerate(ranks)]
    whole = side_by_side(pairs)
    assert len(whole.b) == min(sum(ranks), OUTS)
    wanted = product(*pairs)
    assert np.abs(product(whole) - wanted).max() <= 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("tokens", [200, 9])
def test_of_a_rank_none_errs_less_on_the_inputs_than_the_truncated_one(tokens: int) -> None:
    """By Eckart and Young: of X P the singular values past the rank are left. 9 tokens are too few to tell all."""
    pairs = [pair(4, 0), pair(3, 1)]
    x = np.random.default_rng(0).standard_normal((tokens, INS)) * np.linspace(0.01, 3, INS)
    wanted, gram = product(*pairs), torch.from_numpy(x.T @ x)
    spectrum = np.linalg.svd(x @ wanted, compute_uv=False)
    for rank in range(1, 8):
        left, lego = (np.linalg.norm(x @ (product(found) - wanted))
                      for found in (truncated(side_by_side(pairs), gram, rank), clustered(pairs, rank, seed=0)))
        assert left == pytest.approx(np.sqrt((spectrum[rank:] ** 2).sum()), abs=1e-5 * spectrum[0])
        assert left <= lego + 1e-5 * spectrum[0]
    assert np.abs(product(truncated(side_by_side(pairs), gram, 7)) - wanted).max() <= 1e-5


def test_one_cluster_is_the_mean_unit_as_large_as_its_units_are() -> None:
    found = clustered(pairs := [pair(2, 0), pair(2, 1)], 1, seed=0)
    units = []
    for p in pairs:
        for a, b in zip(p.a.numpy().T.astype(np.float64), p.b.numpy().astype(np.float64), strict=True):
            even = np.sqrt(np.linalg.norm(b) / np.linalg.norm(a))
            units.append(np.concatenate([a * even, b / even]))
    mean = np.mean(units, axis=0)
    mean *= np.mean([np.linalg.norm(unit) for unit in units]) / np.linalg.norm(mean)
    np.testing.assert_allclose(product(found), np.sqrt(2 / 1) * np.outer(mean[:INS], mean[INS:]), rtol=1e-5, atol=1e-6)


def test_units_that_adapters_have_in_common_are_found() -> None:
    one = pair(3, 0)
    turned = torch.tensor([5.0, 0.2, 1.0])
    other = Pair(one.a.flip(1) * turned, one.b.flip(0) / turned[:, None])
    np.testing.assert_allclose(product(clustered([one, other], 3, seed=1)), product(one), rtol=0, atol=1e-5)
