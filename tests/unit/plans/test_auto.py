"""The solver on small random decoders: determinism, choice against the whole tree, and what it hands on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.edits.base import BRANCHES, WeightEdit
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.edits.slice_mlp import SliceMlp
from foldrank.plans.methods.auto import EFFORTS
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.solver.block_refit import refit
from foldrank.plans.solver.layout import Layout, dense_layout
from foldrank.plans.solver.meter import Meter
from foldrank.plans.solver.search import Effort, Search
from foldrank.plans.solver.windows import shortened, split
from tests.support.solving import solved, stored_numbers

MakeModel = Callable[..., Any]


def test_edits_stand_for_the_weights_the_decoder_then_runs(make_model: MakeModel, ids: np.ndarray) -> None:
    decoder = Decoder.of(make_model(4, architecture="qwen2"))
    result = solved(decoder, ids, keep=0.5)
    named = {block.number: block for block in result.decoder.blocks}
    assert any(isinstance(edit, ReplaceWeight) for edit in result.edits)
    for edit in result.edits:
        if not isinstance(edit, WeightEdit):
            continue
        w = np.concatenate([named[edit.site.block].weight(role).numpy() for role in edit.site.roles], axis=1)
        if isinstance(edit, LowRank):
            found = result.arrays[edit.factors[0]] @ result.arrays[edit.factors[1]]
        else:
            found = result.arrays[edit.tensor]
        np.testing.assert_allclose(found, w, atol=1e-5 * np.abs(w).max())


def test_the_same_seed_gives_the_same_plan(make_model: MakeModel, ids: np.ndarray) -> None:
    first, second = (solved(Decoder.of(make_model(3)), ids, keep=0.6) for _ in range(2))
    assert first.edits == second.edits
    assert all(np.array_equal(first.arrays[name], second.arrays[name]) for name in first.arrays)


def test_with_folds_off_every_block_stays(make_model: MakeModel, ids: np.ndarray) -> None:
    result = solved(Decoder.of(make_model(4)), ids, keep=0.4, fold=False)
    assert len(result.decoder.blocks) == 4
    assert not any(isinstance(edit, FoldBlocks) for edit in result.edits)


def test_a_block_that_does_nothing_is_what_goes(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(4)
    for name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
        model.model.layers[2].get_parameter(name).zero_()
    result = solved(Decoder.of(model), ids, keep=0.75)
    assert result.predicted["auto.measured_nats"] < 1e-5
    for fold in (edit for edit in result.edits if isinstance(edit, FoldBlocks)):
        assert 2 in fold.blocks


def test_one_step_takes_the_move_that_an_exhaustive_trial_finds_cheapest(
    make_model: MakeModel, make_search: Callable[..., Search], ids: np.ndarray
) -> None:
    decoder = Decoder.of(make_model(3))
    search = make_search(decoder, *split(ids), Effort(10_000, 10_000, 10_000, (0.0,)))
    original, meter, terms = search.original, search.meter, search.terms
    layout = dense_layout((0, 1, 2))
    need = 0.3 * terms.cost(layout)
    state = search.build(layout)
    moves = terms.moves(layout, need)
    tried = search._shortlist(moves, need, need)
    taken = search._step(state, moves, need, need)

    def added(layout: Layout) -> float:
        """From the embeddings up: nothing that the search holds is used again."""
        hidden, blocks = original.states[0], []
        for span in layout:
            fitted = refit(original, span, hidden)
            hidden = fitted.output
            blocks.append(fitted.block)
        return meter.loss(meter.start, blocks) - state.loss

    scores = [max(added(move.layout), 1e-5) / move.saved for move in tried]
    assert search.steps[0].tried / search.steps[0].saved <= min(scores) * (1 + 1e-3)
    assert taken.layout != layout


def test_windows_that_measure_are_not_those_that_fit(ids: np.ndarray) -> None:
    measuring, fitting = split(ids)
    assert len(measuring) + len(fitting) == len(ids)
    assert not {row.tobytes() for row in measuring} & {row.tobytes() for row in fitting}
    one, other = split(ids[:1])
    assert one.shape == other.shape == (1, 12)
    assert not np.array_equal(one, other)


def test_shortened_windows_hold_the_same_tokens() -> None:
    ids = np.arange(3 * 512).reshape(3, 512)
    assert shortened(ids).shape == (6, 256)
    assert np.array_equal(shortened(ids).reshape(-1), ids.reshape(-1))


def test_what_costs_nothing_is_what_leaves(make_model: MakeModel, ids: np.ndarray) -> None:
    """An attention that writes nothing goes; so do the channels that down does not read."""
    model = make_model(4)
    model.model.layers[1].self_attn.o_proj.weight.zero_()
    model.model.layers[2].mlp.down_proj.weight[:, ::3] = 0
    decoder = Decoder.of(model)
    attention = sum(decoder.blocks[1].weight(role).numel() for role in BRANCHES["attention"])
    channels = 24 * 3 * 42
    result = solved(decoder, ids, keep=1 - (attention + channels) / decoder.site_parameters, effort="normal")
    assert result.predicted["auto.measured_nats"] < 1e-5
    assert {(e.block, e.branch) for e in result.edits if isinstance(e, DropBranch)} == {(1, "attention")}
    (narrow,) = (edit for edit in result.edits if isinstance(edit, SliceMlp))
    assert narrow.block == 2
    assert set(narrow.channels.numbers) == {c for c in range(72) if c % 3}


def test_one_attention_stays(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(3)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
    for effort in ("low", "normal"):
        result = solved(Decoder.of(model), ids, keep=0.45, effort=effort, fold=False, factor=False)
        dropped = [e for e in result.edits if isinstance(e, DropBranch) and e.branch == "attention"]
        assert len(dropped) == 2


def test_where_no_program_finds_a_way_a_descent_does(
    make_model: MakeModel, ids: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Decoder.of(make_model(3))
    monkeypatch.setattr("foldrank.plans.solver.staged.choose", lambda *_: None)
    result = solved(decoder, ids, keep=0.6, effort="normal")
    assert 0.55 * decoder.site_parameters < stored_numbers(decoder, result) <= 0.6 * decoder.site_parameters
    assert not any(step["unit"] == "program" for step in result.diagnostics["auto_steps"])


@pytest.mark.parametrize("room", [0.0, 1.0])
def test_a_low_effort_measures_its_result_alone_and_ends_where_building_the_layout_does(
    make_model: MakeModel, ids: np.ndarray, monkeypatch: pytest.MonkeyPatch, room: float
) -> None:
    """Whether or not the budget has room that is worth a build."""
    monkeypatch.setattr("foldrank.plans.solver.improving.ROOM", room)
    decoder, builds = Decoder.of(make_model(4)), []
    build = Search.build
    monkeypatch.setattr(Search, "build", lambda *given: builds.append(given[1:]) or build(*given))
    outlined = solved(decoder, ids, keep=0.7)
    dense, few = dense_layout(tuple(range(4))), len(builds)
    monkeypatch.setitem(EFFORTS, "low", replace(EFFORTS["low"], built=True))
    built = solved(decoder, ids, keep=0.7)
    assert [given[0] == dense for given in builds[:few]] == [True] if room else few > 1
    assert len(builds) - few > 1
    assert outlined.edits == built.edits
    assert all(np.array_equal(outlined.arrays[name], array) for name, array in built.arrays.items())
    measuring, _ = split(ids)
    its = Meter.of(decoder, measuring).on(outlined.decoder).whole()
    wanted = its if room else built.predicted["auto.measured_nats"]
    assert outlined.predicted["auto.measured_nats"] == pytest.approx(wanted, rel=1e-5)
    assert outlined.diagnostics["auto_steps"][-1]["measured_nats"] == pytest.approx(wanted, rel=1e-5)
    assert outlined.diagnostics["auto_axes"] == built.diagnostics["auto_axes"]


@pytest.mark.parametrize("effort", ["low", "normal"])
def test_predictions_are_part_of_the_result(make_model: MakeModel, ids: np.ndarray, effort: str) -> None:
    result = solved(Decoder.of(make_model(3)), ids, keep=0.8, effort=effort)
    assert result.predicted["auto.measured_nats"] > 0
    assert result.predicted["auto.predicted_nats"] > 0
    steps = result.diagnostics["auto_steps"]
    assert len(steps) == result.predicted["auto.steps"]
    if effort == "low":
        assert all(step["saved"] > 0 for step in steps)
    assert sum(step["saved"] for step in steps) > 0  # exchanges of the other efforts give back as well
    assert torch.isfinite(torch.tensor([step["measured_nats"] for step in steps])).all()


@pytest.mark.parametrize(("architecture", "packed"), [("llama", "joint"), ("llama", "split"), ("qwen2", "split")])
def test_sites_are_what_was_asked_and_the_result_is_the_plans(
    make_model: MakeModel, ids: np.ndarray, architecture: str, packed: str
) -> None:
    """Logits of the model with the edits' own matrices put into the weights are those of the result."""
    decoder = Decoder.of(make_model(3, architecture=architecture))
    result = solved(decoder, ids, keep=0.6, packed=packed, fold=False, drop=False,
                    narrow=False)
    wanted = {("q", "k", "v"), ("o",), ("gate", "up"), ("down",)} if packed == "joint" else {
        (role,) for role in ("q", "k", "v", "o", "gate", "up", "down")}
    assert {edit.site.roles for edit in result.edits if isinstance(edit, WeightEdit)} == wanted
    assert stored_numbers(decoder, result) <= 0.6 * decoder.site_parameters
    blocks = {block.number: block for block in decoder.blocks}
    for edit in result.edits:
        assert not isinstance(edit, FoldBlocks)
        if isinstance(edit, LowRank):
            matrix = result.arrays[edit.factors[0]] @ result.arrays[edit.factors[1]]
        else:
            matrix = result.arrays[edit.tensor]
        block, widths = blocks[edit.site.block], [blocks[edit.site.block].weight(r).shape[1] for r in edit.site.roles]
        parts = torch.from_numpy(matrix).split(widths, dim=1)
        blocks[edit.site.block] = block.with_weights(dict(zip(edit.site.roles, parts, strict=True)))
    whole = decoder.with_blocks([*blocks.values()])
    torch.testing.assert_close(whole.forward(ids), result.decoder.forward(ids), rtol=1e-4, atol=1e-4)
