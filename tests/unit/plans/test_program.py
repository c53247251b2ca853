"""The program against every choice there is, and stages on small random decoders."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.plans.models.decoder import Decoder
from foldrank.plans.solver.costs import Numbers
from foldrank.plans.solver.found import Found
from foldrank.plans.solver.layout import dense_layout
from foldrank.plans.solver.moves import Terms
from foldrank.plans.solver.options import GRID, grid, laid_out
from foldrank.plans.solver.program import Cell, Option, choose
from foldrank.plans.solver.search import Effort, Search
from foldrank.plans.solver.staged import Stages
from foldrank.plans.solver.windows import split

SITES = (("q",), ("o",))


def options(seed: int, blocks: int) -> list[Option]:
    """Three ranks a site, one removal a block, each branch dropped and one width, one fold for each pair of neighbours
    and side; costs are whole."""
    draw = np.random.default_rng(seed)
    made = [
        Option(((block, roles),), float(cost), float(draw.uniform(0, 1 / cost)), (rank,))
        for block in range(blocks) for roles in SITES for rank, cost in ((None, 9), (2, 5), (1, 2))
    ]
    made += [Option(tuple((block, roles) for roles in SITES), 3.0, float(draw.uniform()), (1, 1))
             for block in range(blocks)]
    for block in range(blocks):
        made.append(Option(((block, SITES[1]),), 4.0, float(draw.uniform(0, 0.2)), width=block + 1))
        made.append(Option(((block, SITES[0]),), 0.0, float(draw.uniform(0, 0.6)), dropped="attention"))
        made.append(Option(((block, SITES[1]),), 0.0, float(draw.uniform(0, 0.6)), dropped="mlp"))
    for low in range(blocks - 1):
        for gone, kept in ((low, low + 1), (low + 1, low)):
            made.append(Option(tuple((gone, roles) for roles in SITES), 0.0, float(draw.uniform()),
                               fold=(low, low + 1), source=kept))
    return made


def lawful(taken: list[Option], spare: int) -> bool:
    """No block is folded twice or loses two branches, and enough blocks still attend."""
    joined = [position for option in taken for position in option.fold]
    dropped = [option.cells[0][0] for option in taken if option.dropped]
    gone = [option for option in taken if option.fold or option.dropped == "attention"]
    return len(joined) == len(set(joined)) and len(dropped) == len(set(dropped)) and len(gone) <= spare


def best_of_all(choices: list[Option], limit: float, spare: int) -> float | None:
    """Least loss over every subset that covers each cell once: no solver, no pruning but by cell."""
    cells: list[Cell] = sorted({cell for option in choices for cell in option.cells})

    def covered(left: list[Cell], taken: list[Option]) -> list[list[Option]]:
        if not left:
            return [taken]
        held = {cell for option in taken for cell in option.cells}
        return [
            found for option in choices if left[0] in option.cells and not held & set(option.cells)
            for found in covered([cell for cell in left if cell not in option.cells], [*taken, option])
        ]

    losses = [
        sum(option.nats for option in taken) for taken in covered(cells, [])
        if sum(option.cost for option in taken) <= limit and lawful(taken, spare)
    ]
    return min(losses, default=None)


@pytest.mark.parametrize(("seed", "limit"), itertools.product(range(4), (54.0, 40.0, 27.0, 11.0, 4.0, 1.0)))
def test_the_program_finds_what_enumeration_finds(seed: int, limit: float) -> None:
    made = options(seed, 3)
    spare = seed % 3
    found, wanted = choose(made, limit, spare), best_of_all(made, limit, spare)
    if wanted is None:
        assert found is None
        return
    assert found is not None
    assert sum(option.cost for option in found) <= limit + 1e-9
    assert lawful(list(found), spare)
    covered = [cell for option in found for cell in option.cells]
    assert sorted(covered) == sorted({cell for option in made for cell in option.cells})
    assert sum(option.nats for option in found) == pytest.approx(wanted, rel=1e-3)


def test_options_become_a_layout() -> None:
    layout = dense_layout((0, 1, 2, 3))
    q, o = SITES
    made = laid_out(layout, [
        Option(((0, q),), 1.0, 0.0, (3,)), Option(((0, o),), 1.0, 0.0, (None,)),
        Option(((1, q), (1, o)), 0.0, 0.0, fold=(1, 2), source=2),
        Option(((2, q), (2, o)), 1.0, 0.0, (1, 1)),
        Option(((3, q),), 1.0, 0.0, (None,)), Option(((3, o),), 1.0, 0.0, (2,)),
    ])
    assert [(span.low, span.high, span.source) for span in made] == [(0, 0, 0), (1, 2, 2), (3, 3, 3)]
    assert [dict(span.ranks) for span in made] == [{q: 3}, {q: 1, o: 1}, {o: 2}]


def test_widths_and_dropped_branches_become_a_layout() -> None:
    held = dense_layout((0, 1, 2))
    held = (held[0].narrow(8), held[1].without("attention"), held[2].with_ranks({("up",): 2}))
    up, down, o = ("up",), ("down",), ("o",)
    made = laid_out(held, [
        Option(((0, up), (0, down)), 1.0, 0.0, width=None), Option(((0, o),), 0.0, 0.0, dropped="attention"),
        Option(((1, up), (1, down)), 1.0, 0.0, width=16),
        Option(((2, o),), 1.0, 0.0, (None,)), Option(((2, up), (2, down)), 0.0, 0.0, dropped="mlp"),
    ])
    assert [(span.width, span.dropped, dict(span.ranks)) for span in made] == [
        (None, "attention", {}), (16, "attention", {}), (None, "mlp", {})]


def test_the_grid_is_of_allowed_ranks_with_both_ends() -> None:
    terms = Terms({("q",): (256, 256)}, Numbers(), {}, 2, lambda _shape, rank: rank > 5, lambda _l, _h: True)
    ranks = grid(terms, ("q",))
    assert len(ranks) == GRID
    assert (ranks[0], ranks[-1]) == (6, 126)
    assert all(rank % 2 == 0 for rank in ranks)
    assert ranks == sorted(set(ranks))


@pytest.mark.parametrize("count", [1, 2])
def test_stages_reach_the_budget_and_say_what_they_expected(
    make_model: Callable[..., Any], make_search: Callable[..., Search], ids: np.ndarray, count: int
) -> None:
    decoder = Decoder.of(make_model(4))
    search = make_search(decoder, *split(ids))
    terms = search.terms
    dense = dense_layout((0, 1, 2, 3))
    limit = 0.6 * terms.cost(dense)
    assert Stages(search, count).run(dense, limit)
    state = search.reached
    assert terms.cost(state.layout) <= limit
    assert len(search.steps) == count
    assert search.steps[-1].loss == state.loss == pytest.approx(search.build(state.layout).loss)
    assert sum(step.saved for step in search.steps) == terms.cost(dense) - terms.cost(state.layout)
    assert not Stages(search, count).run(dense, 1.0)


def test_a_block_that_does_nothing_is_what_the_program_takes(
    make_model: Callable[..., Any], make_search: Callable[..., Search], ids: np.ndarray
) -> None:
    model = make_model(4)
    for name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
        model.model.layers[2].get_parameter(name).zero_()
    decoder = Decoder.of(model)
    search = make_search(decoder, *split(ids))
    terms = search.terms
    assert Stages(search, 1).run(dense_layout((0, 1, 2, 3)), 0.75 * 4 * _numbers(terms))
    assert torch.isfinite(torch.tensor(search.reached.loss))
    assert search.reached.loss < 1e-5


def _numbers(terms: Terms) -> int:
    return sum(inner * outer for inner, outer in terms.shapes.values())


def test_sites_that_are_one_weight_somewhere_are_stored_in_the_same_bits() -> None:
    q, k, o = (0, ("q",)), (0, ("k",)), (0, ("o",))
    costs, nats = {4: 1.0, 8: 2.0}, {q: {4: 0.5, 8: 0.0}, k: {4: 0.1, 8: 0.0}, o: {4: 0.05, 8: 0.0}}
    options = [Option((cell,), cost, nats[cell][bits], bits=bits) for cell in (q, k, o) for bits, cost in costs.items()]
    free, bound = choose(options, 5.0), choose(options, 5.0, alike=[[q, k]])
    assert free is not None
    assert bound is not None
    assert {option.cells[0]: option.bits for option in free} == {q: 8, k: 8, o: 4}
    assert {option.cells[0]: option.bits for option in bound} == {q: 8, k: 8, o: 4}
    free, bound = choose(options, 4.0), choose(options, 4.0, alike=[[q, k]])
    assert free is not None
    assert bound is not None
    assert {option.cells[0]: option.bits for option in free} == {q: 8, k: 4, o: 4}
    assert {option.cells[0]: option.bits for option in bound} == {q: 4, k: 4, o: 8}


def test_in_a_tall_model_neighbours_tell_of_the_blocks_between(
    make_model: Callable[..., Any], make_search: Callable[..., Search], ids: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = make_search(Decoder.of(make_model(4)), *split(ids), Effort(8, 8, 8, (0.5,), (1,), 0, 2))
    state = search.build(dense_layout((0, 1, 2, 3)))
    moves = [move for move in search.terms.moves(state.layout, 1e9) if move.unit == (("o",),)]
    ends = [next(move for move in moves if move.position == position) for position in (0, 2)]
    between = next(move for move in moves if move.position == 1)
    monkeypatch.setattr("foldrank.plans.solver.found.TALL", 2)  # every other block
    found = Found(search, state)
    assert found.look([ends[0], between, ends[1]])
    tried = {position for _, position in found.off}
    assert tried == {0, 2}
    factors = [search.factors[move.key] for move in (ends[0], between, ends[1])]
    assert factors[1] == pytest.approx((factors[0] * factors[2]) ** 0.5)
    assert found.added[between.key] == pytest.approx(max(factors[1] * between.predicted, 1e-5))
    assert not found.look([ends[0], between, ends[1]]), "known by now"
