"""Water-filling against brute force over every choice of ranks, and curvatures against PyTorch's own backward pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foldrank.plans.low_rank.allocation import curvatures
from foldrank.plans.low_rank.ranks import Candidate, total
from foldrank.plans.low_rank.waterfill import hull, water_fill, weighted
from foldrank.plans.models.decoder import Decoder
from foldrank.sites import Site


def drawn(seed: int) -> list[Candidate]:
    rng = np.random.default_rng(seed)
    found = []
    for block, (n_in, n_out) in enumerate([(9, 7), (6, 12), (8, 8)]):
        dropped = np.sort(rng.exponential(size=min(n_in, n_out)) ** 3)[::-1]
        losses = np.concatenate([np.cumsum(dropped[::-1])[::-1], [0.0]])
        found.append(Candidate(Site(block, ("q",)), n_in, n_out, losses * rng.uniform(0.1, 3)))
    return found


def loss(candidates: list[Candidate], ranks: dict[Site, int | None]) -> float:
    return sum(c.loss(ranks[c.site]) for c in candidates)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 1.0))
def test_no_choice_of_ranks_has_less_loss_at_the_numbers_spent(seed: int, keep: float) -> None:
    candidates = drawn(seed)
    budget = int(keep * sum(c.dense for c in candidates))
    chosen = water_fill(candidates, budget, 1)
    spent = total(candidates, chosen)
    assert spent <= budget
    every = [[*range(1, c.limit + 1), None] for c in candidates]
    best = min(
        loss(candidates, ranks)
        for choice in itertools.product(*every)
        if total(candidates, ranks := dict(zip(chosen, choice, strict=True))) <= spent
    )
    whole = all(chosen[c.site] in hull(c, 1) for c in candidates)
    assert whole
    assert loss(candidates, chosen) <= best + _last_piece(candidates, chosen) + 1e-12


def _last_piece(candidates: list[Candidate], chosen: dict[Site, int | None]) -> float:
    """Greedy by slope is the best at its own numbers but for a piece skipped for its price: the largest piece left."""
    gains = [0.0]
    for c in candidates:
        ranks = hull(c, 1)
        place = ranks.index(chosen[c.site])
        gains += [c.loss(ranks[place]) - c.loss(ranks[place + 1])] if place + 1 < len(ranks) else []
    return max(gains)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_no_point_lies_under_the_hull(seed: int, align: int) -> None:
    for c in drawn(seed):
        points = hull(c, align)
        numbers, losses = [c.cost(r) for r in points], [c.loss(r) for r in points]
        assert numbers == sorted(set(numbers))
        for rank in range(min(align, c.limit), c.limit + 1, align):
            assert c.loss(rank) >= np.interp(c.cost(rank), numbers, losses) - 1e-12


def test_a_site_may_pass_from_a_small_rank_to_its_dense_weight_at_once() -> None:
    losses = np.array([10.0, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 0.0])
    assert hull(Candidate(Site(0, ("q",)), 8, 8, losses), 1) == [1, None]


def test_weighted_losses_are_absolute_times_the_mean_curvature_of_the_roles() -> None:
    site = Site(0, ("gate", "up"))
    losses = np.array([8.0, 2.0, 0.0])
    (found,) = weighted(
        [Candidate(site, 2, 6, losses / 8)], {site: losses}, {Site(0, ("gate",)): 1.0, Site(0, ("up",)): 3.0}
    )
    np.testing.assert_allclose(found.shares, 2 * losses)


def test_curvature_is_the_mean_squared_gradient_of_what_a_linear_puts_out(
    make_model: Callable[..., Any], ids: np.ndarray
) -> None:
    model = make_model(3)
    found = curvatures(Decoder.of(model), ids[:2])
    module, sizes = model.model.layers[1].mlp.up_proj, []
    model.requires_grad_(True)
    handle = module.register_forward_hook(lambda _m, _a, y: y.retain_grad() or seen.append(y))
    for row in torch.from_numpy(ids[:2]):
        seen: list[torch.Tensor] = []
        model(input_ids=row[None], labels=row[None]).loss.backward()
        assert seen[0].grad is not None
        sizes.append(float(seen[0].grad.double().pow(2).mean()))
    handle.remove()
    assert found[Site(1, ("up",))] == pytest.approx(np.mean(sizes), rel=1e-4)
    assert found[Site(1, ("up",))] != pytest.approx(found[Site(2, ("up",))], rel=1e-2)
