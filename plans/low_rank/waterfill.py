"""Ranks in closed form: the budget goes where a number stored saves most loss, dense weights included.

A site's losses by rank are convex, but its dense weight is not on that curve: past the largest useful rank it costs
little more and loses nothing. So each site offers the lower convex hull of its (numbers, loss) points, dense among
them, and the steepest pieces of all hulls go first: no other choice of hull points has less loss at the numbers spent.
Knows shapes and losses. Knows nothing of models or tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from foldrank.plans.low_rank.ranks import Candidate, Ranks, smallest, total
from foldrank.sites import Site


@dataclass(frozen=True)
class _Piece:
    """A step along a hull: from wherever the site is to `rank`."""

    candidate: Candidate
    rank: int | None
    price: int
    slope: float


def water_fill(candidates: Sequence[Candidate], budget: int, align: int) -> Ranks:
    """Ranks up to the last whole piece that the budget affords; the smallest ranks, where not even those."""
    chosen = smallest(candidates, align)
    left = budget - total(candidates, chosen)
    stopped: set[Site] = set()
    pieces = [piece for candidate in candidates for piece in _pieces(candidate, align)]
    for piece in sorted(pieces, key=lambda piece: -piece.slope):
        site = piece.candidate.site
        if site in stopped or piece.price > left:
            stopped.add(site)
            continue
        left -= piece.price
        chosen[site] = piece.rank
    return chosen


def weighted(
    candidates: Sequence[Candidate], losses: Mapping[Site, np.ndarray], curvatures: Mapping[Site, float]
) -> tuple[Candidate, ...]:
    """The candidates with losses that compare between sites: absolute ones times the curvature of each role's output.

    `curvatures` is by single-role site; a packed one takes the mean of its roles'.
    """
    return tuple(
        replace(c, shares=losses[c.site] * np.mean([curvatures[part] for part in c.site.parts])) for c in candidates
    )


def hull(candidate: Candidate, align: int) -> list[int | None]:
    """Ranks on the lower convex hull, ascending, from the smallest to the dense weight (None)."""
    if candidate.limit < 1:
        return [None]
    first = min(align, candidate.limit)
    points: list[int | None] = [*range(first, candidate.limit + 1, align), None]
    kept: list[int | None] = []
    for point in points:
        while len(kept) > 1 and _slope(candidate, kept[-2], kept[-1]) <= _slope(candidate, kept[-2], point):
            kept.pop()
        kept.append(point)
    return kept


def _pieces(candidate: Candidate, align: int) -> list[_Piece]:
    ranks = hull(candidate, align)
    return [
        _Piece(candidate, rank, candidate.cost(rank) - candidate.cost(below), _slope(candidate, below, rank))
        for below, rank in pairwise(ranks)
    ]


def _slope(candidate: Candidate, below: int | None, rank: int | None) -> float:
    """Loss saved per number stored."""
    return (candidate.loss(below) - candidate.loss(rank)) / (candidate.cost(rank) - candidate.cost(below))
