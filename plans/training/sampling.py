"""Which windows recovery trains on, batch after batch.

    random  each batch is drawn from all windows, whatever earlier ones had
    rs2     the windows in a fresh random order each epoch, so that none comes again before all came (arXiv 2305.18424,
            without replacement): the baseline that choosing has to beat
    paser   windows are clustered by what stands in them, and a cluster is drawn in proportion to what the compressed
            model loses there (arXiv 2502.12594: clusters of a sentence encoder's manifold, and a filter against
            conflicting instructions; here k-means over mean embeddings of tokens, and no filter)

Axes: N windows, C channels. Randomness comes from seeds: the same batches again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, get_args

import numpy as np

from foldrank.plans.kmeans import kmeans

Select = Literal["random", "rs2", "paser"]
SELECTS: tuple[Select, ...] = get_args(Select)

CLUSTERS, PROBED = 8, 2
"""Of paser: clusters at most; windows of each that its loss is measured on."""


def batches(windows: int, batch: int, seed: int, weights: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Rows of one batch after the other, ascending; drawn with these weights where they are given."""
    random, size = np.random.default_rng(seed), min(batch, windows)
    if weights is not None:
        size = min(size, int(np.count_nonzero(weights)))
    while True:
        yield np.sort(random.choice(windows, size=size, replace=False, p=weights))


def epochs(windows: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of one batch after the other: each epoch has every window once, the last batch of one ends in the next."""
    random, size = np.random.default_rng(seed), min(batch, windows)
    left = np.empty(0, dtype=np.int64)
    while True:
        if len(left) < size:
            fresh = random.permutation(windows)
            # a window that the last epoch has in this batch comes later in the next
            left = np.concatenate([left, fresh[~np.isin(fresh, left)], fresh[np.isin(fresh, left)]])
        yield np.sort(left[:size])
        left = left[size:]


def clusters(features_NC: np.ndarray, seed: int, most: int = CLUSTERS) -> np.ndarray:
    """Number of each window's cluster [N]: k-means on directions."""
    return kmeans(features_NC / np.maximum(np.linalg.norm(features_NC, axis=1, keepdims=True), 1e-30), most, seed)


def weights_by_loss(
    cluster_N: np.ndarray, loss: Callable[[np.ndarray], float], seed: int, probed: int = PROBED
) -> np.ndarray:
    """Probability of each window [N]: in proportion to the loss of its cluster, measured by `loss` on a few of its
    rows, so that a cluster's share is its size times that."""
    random, weights = np.random.default_rng(seed), np.zeros(len(cluster_N))
    for k in np.unique(cluster_N):
        rows = np.flatnonzero(cluster_N == k)
        chosen = np.sort(random.choice(rows, size=min(probed, len(rows)), replace=False))
        weights[rows] = max(loss(chosen), 0.0)
    return weights / weights.sum() if weights.sum() > 0 else np.full(len(weights), 1 / len(weights))
