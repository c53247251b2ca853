"""Ranks within a budget: aligned to what kernels like, and what rounding frees is spent where it helps most.

Knows shapes and losses. Knows nothing of models or tensors.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foldrank.edits.low_rank import rank_limit
from foldrank.sites import Site


@dataclass(frozen=True)
class Candidate:
    """One site that may become a pair. `shares` [min(in, out) + 1]: loss at each rank over that of dropping it all."""

    site: Site
    n_in: int
    n_out: int
    shares: np.ndarray

    @property
    def dense(self) -> int:
        """Numbers in W."""
        return self.n_in * self.n_out

    @property
    def limit(self) -> int:
        """Largest rank at which a pair holds fewer numbers than W; 0 where none does."""
        return min(rank_limit(self.n_in, self.n_out), len(self.shares) - 1)

    def cost(self, rank: int | None) -> int:
        """Numbers stored: of the pair, or of W where rank is None."""
        return self.dense if rank is None else rank * (self.n_in + self.n_out)

    def loss(self, rank: int | None) -> float:
        """Share of the loss at a rank; 0 where the site stays dense."""
        return 0.0 if rank is None else float(self.shares[rank])


Ranks = dict[Site, int | None]
"""Chosen rank of every site; None where it stays dense."""


def from_ratios(candidates: Sequence[Candidate], ratios: Mapping[int, float], align: int) -> Ranks:
    """Reference ranks floor(in * out * ratio / (in + out)) by block, rounded down to `align` (never to nothing)."""
    return from_site_ratios(candidates, {c.site: ratios[c.site.block] for c in candidates}, align)


def from_site_ratios(candidates: Sequence[Candidate], ratios: Mapping[Site, float], align: int) -> Ranks:
    """As `from_ratios`, with a ratio of its own for each site."""
    return {c.site: _start(c, ratios[c.site], align) for c in candidates}


def aligned_rank(shape: tuple[int, int], ratio: float, align: int) -> int:
    """The largest rank, of multiples of `align` where there are, at which a pair holds this ratio of the numbers of
    W [in, out], or fewer; not above what saves."""
    rank = min(int(shape[0] * shape[1] * ratio / sum(shape)), rank_limit(*shape))
    return rank // align * align or max(rank, 1)


def smallest(candidates: Sequence[Candidate], align: int) -> Ranks:
    """The least there is of every site: where spending alone decides, it starts here."""
    return {c.site: min(align, c.limit) or None for c in candidates}


def spend(candidates: Sequence[Candidate], ranks: Ranks, budget: int, align: int) -> Ranks:
    """Raise ranks step by step, the step that lowers relative loss most per number stored first, within the budget.

    A step goes to the next multiple of `align`, or past the largest useful rank to the dense weight. Gains fall with
    rank, so the greedy order is the best but for the last steps. Raises ValueError where `ranks` exceed the budget.
    """
    chosen = dict(ranks)
    left = budget - total(candidates, chosen)
    if left < 0:
        raise ValueError(f"the budget of {budget} numbers is below the {budget - left} that the smallest ranks need")
    queue = [entry for index, c in enumerate(candidates) if (entry := _step(index, c, chosen[c.site], align))]
    heapq.heapify(queue)
    while queue:
        _, index, price, rank = heapq.heappop(queue)
        if price > left:
            continue  # what is left only shrinks, so this site is done
        candidate = candidates[index]
        left -= price
        chosen[candidate.site] = rank
        if entry := _step(index, candidate, rank, align):
            heapq.heappush(queue, entry)
    return chosen


def total(candidates: Sequence[Candidate], ranks: Ranks) -> int:
    """Numbers stored by all sites."""
    return sum(c.cost(ranks[c.site]) for c in candidates)


def _start(candidate: Candidate, ratio: float, align: int) -> int | None:
    if ratio >= 1 or candidate.limit < 1:
        return None
    return min(aligned_rank((candidate.n_in, candidate.n_out), ratio, align), candidate.limit)


def _step(index: int, candidate: Candidate, rank: int | None, align: int) -> tuple[float, int, int, int | None] | None:
    """(minus gain per number, index, price, next rank); None where nothing is left to gain a step by."""
    if rank is None:
        return None
    following = (rank // align + 1) * align
    target = following if following <= candidate.limit else None
    price = candidate.cost(target) - candidate.cost(rank)
    gain = candidate.loss(rank) - candidate.loss(target)
    return (-gain / price, index, price, target)
