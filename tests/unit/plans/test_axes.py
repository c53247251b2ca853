"""What each kind of change costs in a layout, and what it alone or another budget would have given."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from foldrank.edits.storage import FewBits
from foldrank.plans.solver.axes import best, front, only, shares
from foldrank.plans.solver.costs import Bytes, Numbers
from foldrank.plans.solver.layout import Shapes, dense_layout
from foldrank.plans.solver.moves import Terms
from foldrank.plans.solver.narrowing import Narrowing
from foldrank.plans.width.channels import Order

Q, OUT, UP, DOWN = ("q",), ("o",), ("up",), ("down",)
SHAPES: Shapes = {Q: (32, 32), OUT: (32, 32), UP: (32, 64), DOWN: (64, 32)}
STORAGES = {bits: FewBits(bits, 32, True, 4) for bits in (4, 8)}


def terms() -> Terms:
    """Two blocks: pairs cost ten times what as many channels do, four bits a tenth of that."""
    curves = {number: {roles: np.linspace(1.0, 0.0, min(shape) + 1) for roles, shape in SHAPES.items()}
              for number in (0, 1)}
    order = Order(torch.arange(64), (64, 48, 32, 16), (0.0, 0.01, 0.02, 0.03))
    narrowing = Narrowing({64: 0.0, 48: 0.02, 32: 0.05, 16: 0.1}, order)
    rounding = {number: {roles: {4: 0.01, 8: 0.0001} for roles in SHAPES} for number in (0, 1)}
    return Terms(SHAPES, Bytes(4, STORAGES), curves, 1, lambda _shape, _rank: True, lambda _low, _high: False,
                 {0: narrowing, 1: narrowing}, True, rounding)


def test_a_kind_alone_may_change_nothing_else() -> None:
    whole, dense = terms(), dense_layout((0, 1))
    cost = whole.cost(dense)
    assert best(only(whole, "width"), dense, {}, 0.9 * cost) == pytest.approx(0.04), "two MLPs a step"
    assert best(only(whole, "bits"), dense, {}, 0.9 * cost) == pytest.approx(0.0001)
    assert best(only(whole, "rank"), dense, {}, 0.9 * cost) > 0.05
    assert best(only(whole, "fold"), dense, {}, 0.9 * cost) is None
    assert best(only(whole, "width"), dense, {}, 0.2 * cost) is None, "attention stays"


def test_all_kinds_together_are_never_worse_than_one_alone() -> None:
    whole, dense = terms(), dense_layout((0, 1))
    for share in (0.9, 0.5, 0.2, 0.14):
        limit = share * whole.cost(dense)
        alone = [best(only(whole, axis), dense, {}, limit) for axis in ("drop", "width", "rank", "bits")]
        together = best(whole, dense, {}, limit)
        assert together is not None
        assert together <= min(nats for nats in alone if nats is not None) + 1e-9


def test_shares_add_up_to_what_the_layout_costs_and_factors_scale_them() -> None:
    whole, dense = terms(), dense_layout((0, 1))
    chosen = (dense[0].narrow(32).with_bits({UP: 4, DOWN: 4, Q: 8}), dense[1].with_ranks({Q: 16}))
    found = {share.axis: share for share in shares(whole, dense, chosen, {(0, "width"): 2.0}, 0.5 * whole.cost(dense))}
    assert found["width"].nats == pytest.approx(2 * 0.05)
    assert found["bits"].nats == pytest.approx(2 * 0.01 / 2 + 0.0001), "half the channels, half of what rounding costs"
    assert found["rank"].nats == pytest.approx(0.5)
    assert found["bits"].alone == pytest.approx(best(only(whole, "bits"), dense, {}, 0.5 * whole.cost(dense)))


def test_a_larger_budget_never_costs_more() -> None:
    whole, dense = terms(), dense_layout((0, 1))
    points = front(whole, dense, {}, 0.3 * whole.cost(dense))
    assert len(points) > 4
    assert all(one[1] >= other[1] - 1e-9 for one, other in pairwise(points))
    assert front(replace(whole, costs=Numbers(), rounding={}), dense, {}, 2 * 32 * 32)[-1][0] <= 4 * 32 * 32
