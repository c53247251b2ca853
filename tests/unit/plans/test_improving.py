"""What is done with a layout where a search ended: room spent on ranks, ranks exchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from foldrank.plans.models.decoder import Decoder
from foldrank.plans.solver.improving import exchanged, filled, raised, swapped
from foldrank.plans.solver.layout import GROUPS, dense_layout
from foldrank.plans.solver.search import Effort, Search
from foldrank.plans.solver.windows import split

MakeModel = Callable[..., Any]


def test_what_is_left_of_the_budget_goes_to_ranks_that_pay(
    make_model: MakeModel, make_search: Callable[..., Search], ids: np.ndarray
) -> None:
    decoder = Decoder.of(make_model(3))
    search = make_search(decoder, *split(ids))
    terms = search.terms
    layout = dense_layout((0, 1, 2))
    low = (layout[0].with_ranks({GROUPS[0]: 2, GROUPS[3]: 1}), *layout[1:])
    room = terms.costs.site(terms.shapes[GROUPS[0]], 5) - terms.costs.site(terms.shapes[GROUPS[0]], 2)
    raises = raised(terms, low, room)
    assert {next(iter(move.unit)) for move in raises} == {GROUPS[0], GROUPS[3]}
    assert all(0 < -move.saved <= room and move.predicted <= 0 for move in raises)
    assert raised(terms, low, 0) == raised(terms, layout, room) == []
    search.begin(low)
    before = search.reached
    filled(search, terms.cost(low) + room)
    after = search.reached
    assert after.loss < before.loss
    assert terms.cost(low) < terms.cost(after.layout) <= terms.cost(low) + room
    assert all(search.build(move.layout).loss >= after.loss - 1e-9
               for move in raised(terms, after.layout, terms.cost(low) + room - terms.cost(after.layout)))


def test_channels_go_where_they_are_worth_more(
    make_model: MakeModel, make_search: Callable[..., Search], ids: np.ndarray
) -> None:
    """One MLP cut to the bone and one hardly: each step up is the next width or the widest that fits, whole at last."""
    decoder = Decoder.of(make_model(3))
    search = make_search(decoder, *split(ids), Effort(8, 4, 8, (0.5,), exchanges=10))
    terms, price = search.terms, 3 * 42
    layout = dense_layout((0, 1, 2))
    low = (layout[0].narrow(16), layout[1].narrow(64), layout[2])
    steps = {(move.position, move.layout[move.position].width): -move.saved for move in raised(terms, low, 20 * price)}
    assert steps == {(0, 24): 8 * price, (0, 32): 16 * price, (1, None): 8 * price}
    downs = {(down.position, down.layout[down.position].width) for down, _ in swapped(terms, low, 0)}
    assert downs == {(1, 56)}, "16 of 72 is as narrow as it gets"
    search.begin(low)
    start = search.reached
    exchanged(search, terms.cost(low))
    after = search.reached
    assert after.loss < start.loss
    assert terms.cost(after.layout) <= terms.cost(low)


@pytest.mark.parametrize("builds", [0, 1, 3, 1000])
def test_exchanges_never_cost_more_nor_lose_more_and_end_where_they_are_told(
    make_model: MakeModel, make_search: Callable[..., Search], ids: np.ndarray, builds: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = Decoder.of(make_model(3))
    search = make_search(decoder, *split(ids), Effort(8, 4, 8, (0.5,), exchanges=builds))
    layout = tuple(span.with_ranks({GROUPS[0]: 3, GROUPS[2]: 9}) for span in dense_layout((0, 1, 2)))
    search.begin(layout)
    start, limit, losses = search.reached, search.terms.cost(layout), []
    build = Search.build
    monkeypatch.setattr(Search, "build", lambda *a: (made := build(*a), losses.append(made.loss))[0])
    exchanged(search, limit)
    after = search.reached
    tried = [*losses]
    assert len(tried) <= builds
    assert after.loss == min([start.loss, *tried])
    assert search.terms.cost(after.layout) <= limit
    assert after.loss == pytest.approx(search.build(after.layout).loss)
    if builds == 1000:
        assert after.loss < start.loss, "ranks that are all alike are not where they are worth most"
        assert min(tried[-search.effort.later :]) >= after.loss, "the last that were tried did not pay"
    assert sum(step.saved for step in search.steps) == limit - search.terms.cost(after.layout)
