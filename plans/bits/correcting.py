"""Pairs beside weights in few bits, for what rounding lost: y = x Q + (x A) B.

Of what is lost, E = W - Q, the pair of rank R that errs least under the inputs' Gram G: A = E U, B = U^T, U the first R
eigenvectors of E^T G E. That is the aim of EoRA (arXiv 2410.21271). Roles that read one input and are all stored share
a pair, so that a graph has two products for them. Axes: I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from foldrank.plans.low_rank.truncation import leading
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.models.block import Pair
from foldrank.sites import PACKED, Site


def corrected_sites(stored: Iterable[Site]) -> list[Site]:
    """The sites of pairs beside these single-role sites: one for q, k, v, and one for gate and up, where all are."""
    left = dict.fromkeys(stored)
    found = []
    for block in dict.fromkeys(site.block for site in left):
        for roles in PACKED.values():
            if set((joint := Site(block, roles)).parts) <= left.keys():
                found.append(joint)
                for part in joint.parts:
                    del left[part]
    return sorted([*found, *left])


def names_of(site: Site) -> tuple[str, str]:
    """What A and B are called in the plan."""
    return f"{site}.beside.A", f"{site}.beside.B"


def correction(lost_IO: Tensor, gram_II: Tensor, rank: int) -> Pair:
    """A [I, rank] and B [rank, O], float32, for what is lost; of full rank, where the rank asked is larger. Cost: an
    eigenproblem of size min(I, O)."""
    a, b, _ = leading(lost_IO, Metric(gram_II.double()), rank)
    return Pair(a, b)
