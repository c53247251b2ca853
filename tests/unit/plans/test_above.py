"""What a change of a block's output costs, told without running what lies above it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from foldrank.plans.models.decoder import Decoder
from foldrank.plans.solver.above import Above
from foldrank.plans.solver.layout import dense_layout
from foldrank.plans.solver.meter import Meter
from foldrank.plans.solver.search import Search
from foldrank.plans.solver.windows import split

MakeModel = Callable[..., Any]


def test_slopes_are_those_of_finite_differences(make_model: MakeModel, ids: np.ndarray) -> None:
    decoder, other = Decoder.of(make_model(3)), Decoder.of(make_model(3, seed=1))
    meter, blocks = Meter.of(decoder, ids), other.blocks
    slopes = meter.slopes(blocks)
    states = meter.inputs(blocks)
    for position in (0, 1):
        way = torch.randn(states[position + 1].shape, generator=torch.Generator().manual_seed(2))
        ends = [meter.loss(states[position + 1] + step * way, blocks[position + 1 :]) for step in (0.01, -0.01)]
        assert float((slopes[position] * way).sum()) == pytest.approx((ends[0] - ends[1]) / 0.02, rel=1e-2, abs=1e-5)


def test_noise_behind_the_last_block_costs_half_its_fisher_energy(
    make_model: MakeModel, make_search: Callable[..., Search], ids: np.ndarray
) -> None:
    decoder = Decoder.of(make_model(3))
    search = make_search(decoder, ids, ids)
    above = search.above(search.build(dense_layout((0, 1, 2))))
    last = above.outputs[-1]
    noise = 0.05 * last.std() * torch.randn(last.shape, generator=torch.Generator().manual_seed(3))
    measured = search.meter.loss(last + noise, ())
    assert above.added(2, last + noise) == pytest.approx(measured, rel=0.3)
    assert above.added(2, last + noise / 2) == pytest.approx(above.added(2, last + noise) / 4, rel=1e-4)


def test_the_gradient_counts_where_the_model_is_not_the_original() -> None:
    torch.manual_seed(0)
    outputs, slopes, root = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(4, 4)
    changed = outputs + torch.randn(2, 3, 4)
    above = Above([outputs], [slopes], [root @ root.T])
    change = (changed - outputs).reshape(6, 4).double().numpy()
    bends = [row @ (root @ root.T).double().numpy() @ row / 2 for row in change]
    tilts = [row @ slope for row, slope in zip(change, slopes.reshape(6, 4).double().numpy(), strict=True)]
    assert above.added(0, changed) == pytest.approx(np.mean(bends) + np.sum(tilts), rel=1e-5)


def test_moves_that_are_told_to_cost_more_do_cost_more(
    make_model: MakeModel, make_search: Callable[..., Search], ids: np.ndarray
) -> None:
    search = make_search(Decoder.of(make_model(4, spread=0.1)), *split(ids))
    terms, state = search.terms, search.build(dense_layout((0, 1, 2, 3)))
    above = search.above(state)
    moves = [move for move in terms.moves(state.layout, 0.3 * terms.cost(state.layout)) if move.position][::3]
    told = [search.expected(state, above, move) for move in moves]
    measured = [search.tried(state, move).added for move in moves]
    assert len(moves) > 20
    assert spearmanr(told, measured).statistic > 0.9
    assert spearmanr([move.predicted for move in moves], measured).statistic < spearmanr(told, measured).statistic
