"""k-means, begun as k-means++ does. Axes: N points, C channels, K clusters. Randomness comes from a seed."""

from __future__ import annotations

import numpy as np

ROUNDS = 25


def kmeans(points_NC: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Number of each point's cluster [N]; fewer clusters than `most` where points coincide, and some may be empty."""
    random = np.random.default_rng(seed)
    centres = points_NC[[int(random.integers(len(points_NC)))]]
    while len(centres) < min(most, len(points_NC)):
        far = _distances(points_NC, centres).min(axis=1)
        if far.sum() <= 1e-12:
            break
        centres = np.concatenate([centres, points_NC[[int(random.choice(len(points_NC), p=far / far.sum()))]]])
    for _ in range(ROUNDS):
        nearest = _distances(points_NC, centres).argmin(axis=1)
        centres = np.stack([points_NC[nearest == k].mean(axis=0) if (nearest == k).any() else centre
                            for k, centre in enumerate(centres)])
    return _distances(points_NC, centres).argmin(axis=1)


def _distances(points_NC: np.ndarray, centres_KC: np.ndarray) -> np.ndarray:
    """Squared [N, K]."""
    lengths = (points_NC**2).sum(axis=1)[:, None] + (centres_KC**2).sum(axis=1)
    return np.maximum(lengths - 2 * points_NC @ centres_KC.T, 0.0)
