"""Which windows recovery draws: every one before any again, or in proportion to what is lost where they belong."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from foldrank.plans.training.sampling import batches, clusters, epochs, weights_by_loss


def test_rs2_takes_every_window_once_before_any_twice() -> None:
    drawn = [*islice(epochs(10, 4, seed=1), 25)]
    rows = np.concatenate(drawn)
    assert all(len(set(batch.tolist())) == 4 for batch in drawn)
    for end in range(1, 26):
        counts = np.bincount(rows[: 4 * end], minlength=10)
        assert counts.max() - counts.min() <= 1
    assert not np.array_equal(rows[:20], rows[20:40]), "each epoch has an order of its own"
    assert [batch.tolist() for batch in islice(epochs(3, 8, seed=0), 2)] == [[0, 1, 2]] * 2


def test_batches_are_drawn_as_weighted() -> None:
    weights = np.array([0.5, 0.25, 0.25, 0.0])
    ones = np.concatenate([*islice(batches(4, 1, 0, weights), 4000)])
    np.testing.assert_allclose(np.bincount(ones, minlength=4) / 4000, weights, atol=0.03)
    assert next(batches(4, 8, 0, weights)).tolist() == [0, 1, 2]
    first, again = (next(batches(100, 8, seed=5)) for _ in range(2))
    assert first.tolist() == again.tolist() == sorted(first.tolist())


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """Twelve points near each of three directions, of any length."""
    random = np.random.default_rng(0)
    directions = np.repeat(np.eye(3, 8), 12, axis=0) + 0.05 * random.standard_normal((36, 8))
    return directions * random.uniform(0.1, 10, (36, 1))


def test_clusters_are_found(points: np.ndarray) -> None:
    found = clusters(points, seed=0, most=3)
    assert [len(set(found[start : start + 12])) for start in (0, 12, 24)] == [1, 1, 1]
    assert len(set(found)) == 3
    assert set(clusters(np.ones((5, 4)), seed=0)) == {0}


def test_a_cluster_is_drawn_in_proportion_to_its_size_and_loss() -> None:
    cluster = np.array([0] * 6 + [1] * 3 + [2] * 2)
    lost, asked = {0: 0.1, 1: 0.4, 2: 0.0}, []

    def loss(rows: np.ndarray) -> float:
        asked.append(rows)
        return lost[int(cluster[rows[0]])]

    weights = weights_by_loss(cluster, loss, seed=0)
    assert [len(rows) for rows in asked] == [2, 2, 2]
    assert all(len(set(cluster[rows])) == 1 for rows in asked)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose([weights[cluster == k].sum() for k in range(3)], [6 / 18, 12 / 18, 0])
    nothing = weights_by_loss(cluster, lambda rows: 0.0, seed=0)
    np.testing.assert_allclose(nothing, 1 / 11)
