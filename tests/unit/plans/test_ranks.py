"""Ranks within a budget."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldrank.plans.low_rank.ranks import Candidate, from_ratios, smallest, spend, total
from foldrank.sites import Site


def candidate(block: int, role: str, n_in: int, n_out: int, seed: int) -> Candidate:
    values = np.sort(np.random.default_rng(seed).exponential(size=min(n_in, n_out)) ** 3)[::-1]
    shares = np.concatenate([np.cumsum(values[::-1])[::-1], [0.0]]) / values.sum()
    return Candidate(Site(block, (role,)), n_in, n_out, shares)


def model(seed: int, blocks: int = 3) -> list[Candidate]:
    shapes = {"q": (40, 48), "k": (40, 16), "o": (48, 40), "down": (72, 40)}
    return [candidate(b, role, *shape, seed * 100 + 10 * b + i)
            for b in range(blocks) for i, (role, shape) in enumerate(shapes.items())]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 500), st.floats(0.1, 1.0), st.sampled_from([1, 4, 16]))
def test_budget_is_never_exceeded_and_nothing_affordable_is_left(seed: int, keep: float, align: int) -> None:
    sites = model(seed)
    budget = int(keep * sum(c.dense for c in sites))
    for start in (from_ratios(sites, dict.fromkeys(range(3), keep), align), smallest(sites, 1)):
        if total(sites, start) > budget:
            continue
        ranks = spend(sites, start, budget, align)
        assert total(sites, ranks) <= budget
        for c in sites:
            rank = ranks[c.site]
            if rank is None:
                continue
            assert 1 <= rank <= c.limit
            following = (rank // align + 1) * align
            price = c.cost(following if following <= c.limit else None) - c.cost(rank)
            assert price > budget - total(sites, ranks)


def test_reference_rank_is_rounded_down_to_the_alignment_but_never_to_nothing() -> None:
    c = candidate(0, "down", 512, 192, 0)
    assert from_ratios([c], {0: 0.8}, 1)[c.site] == int(512 * 192 * 0.8 / 704) == 111
    assert from_ratios([c], {0: 0.8}, 16)[c.site] == 96
    assert from_ratios([c], {0: 0.05}, 16)[c.site] == 6
    assert from_ratios([c], {0: 1.0}, 16)[c.site] is None


def test_site_where_no_pair_saves_stays_dense() -> None:
    c = Candidate(Site(0, ("k",)), 2, 1, np.array([1.0, 0.0]))
    assert c.limit == 0
    ranks = spend([c], smallest([c], 16), c.dense, 16)
    assert ranks == {c.site: None}


def test_full_budget_keeps_everything_dense() -> None:
    sites = model(3)
    ranks = spend(sites, smallest(sites, 1), sum(c.dense for c in sites), 1)
    assert set(ranks.values()) == {None}


def test_a_budget_below_the_start_is_refused_with_the_numbers() -> None:
    sites = model(4)
    with pytest.raises(ValueError, match=r"budget of 10 numbers is below the \d+ that"):
        spend(sites, smallest(sites, 1), 10, 1)


@pytest.mark.parametrize("seed", range(12))
def test_greedy_spending_is_within_one_step_of_brute_force(seed: int) -> None:
    sites = [candidate(b, "q", 6, 8, seed * 7 + b) for b in range(3)]
    budget = int(0.8 * sum(c.dense for c in sites)) // 14 * 14
    options = [[*range(1, c.limit + 1), None] for c in sites]
    fits = [r for r in itertools.product(*options)
            if sum(c.cost(x) for c, x in zip(sites, r, strict=True)) <= budget]
    best = min(sum(c.loss(x) for c, x in zip(sites, r, strict=True)) for r in fits)
    ranks = spend(sites, smallest(sites, 1), budget, 1)
    worst_step = max(c.loss(r) for c in sites for r in [ranks[c.site]])
    assert sum(c.loss(ranks[c.site]) for c in sites) <= best + worst_step + 1e-12
