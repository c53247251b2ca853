"""The solver on small random decoders: budgets, determinism, choice against the whole tree, and what it hands on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.edits.base import BRANCHES, WeightEdit
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.edits.slice_mlp import SliceMlp
from foldrank.errors import PlanFormatError
from foldrank.plans.method import Result, Task
from foldrank.plans.methods.auto import run
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.request import parse
from foldrank.plans.solver.block_refit import refit
from foldrank.plans.solver.costs import CostTable, Timing
from foldrank.plans.solver.layout import GROUPS, Layout, dense_layout
from foldrank.plans.solver.meter import Meter
from foldrank.plans.solver.original import shapes_of
from foldrank.plans.solver.search import Effort, Search
from foldrank.plans.solver.settings import Settings
from foldrank.plans.solver.windows import shortened, split
from foldrank.sites import Site

MakeModel = Callable[..., Any]


def solved(decoder: Decoder, ids: np.ndarray, **options: Any) -> Result:
    settings = Settings(**{"effort": "low", "align": 1, "width_align": 4, **options})
    return run(Task(decoder, ids, 0, source=decoder), settings)


def stored_numbers(decoder: Decoder, result: Result) -> int:
    """Numbers in the sites, counted from the edits alone."""
    numbers = {(block.number, role): block.weight(role).numel() for block in decoder.blocks for role in block.roles}
    for edit in result.edits:
        if isinstance(edit, FoldBlocks):
            numbers = {site: count for site, count in numbers.items() if site[0] not in edit.leaving}
        elif isinstance(edit, DropBranch):
            numbers = {site: count for site, count in numbers.items()
                       if site[0] != edit.block or site[1] not in BRANCHES[edit.branch]}
        elif isinstance(edit, SliceMlp):
            for role in edit.roles:
                numbers[edit.block, role] = edit.shape[1] * len(edit.channels)
        elif isinstance(edit, LowRank):
            share = edit.rank * sum(edit.shape) / len(edit.site.roles)
            numbers |= {(edit.site.block, role): share for role in edit.site.roles}
    return round(sum(numbers.values()))


@pytest.mark.parametrize("keep", [0.95, 0.7, 0.4])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_the_budget_is_never_exceeded_and_used_up_to_a_rank(
    make_model: MakeModel, ids: np.ndarray, keep: float, architecture: str
) -> None:
    decoder = Decoder.of(make_model(3, architecture=architecture))
    result = solved(decoder, ids, keep=keep)
    numbers = stored_numbers(decoder, result)
    assert numbers == pytest.approx(result.kept * decoder.site_parameters)
    assert numbers <= keep * decoder.site_parameters
    assert numbers > (keep - 0.05) * decoder.site_parameters


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


def test_bytes_count_the_whole_model(make_model: MakeModel, ids: np.ndarray) -> None:
    decoder = Decoder.of(make_model(3))
    whole = decoder.other_parameters + sum(block.parameters for block in decoder.blocks)
    result = solved(decoder, ids, bytes=2 * (whole - 9000), dtype="fp16")
    left = decoder.other_parameters + sum(b.parameters - b.site_parameters for b in result.decoder.blocks)
    assert left + stored_numbers(decoder, result) <= whole - 9000
    with pytest.raises(ValueError, match="embeddings"):
        solved(decoder, ids, bytes=100)


def table(decoder: Decoder, folder: Path, *, slow: Collection[tuple[int, int]] = ()) -> str:
    """A cost table where time is numbers, but for shapes whose pairs are never faster."""
    timings = tuple(
        Timing(shape, float(shape[0] * shape[1]),
               {rank: float(rank * sum(shape)) * (1000 if shape in slow else 1) for rank in (1, 4, 16)})
        for shape in sorted(set(shapes_of(decoder.blocks[0], "joint").values()))
    )
    path = folder / "costs.json"
    path.write_text(CostTable(timings, {}).text())
    return str(path)


def test_no_pair_stands_where_it_is_measured_slower(make_model: MakeModel, ids: np.ndarray, tmp_path: Path) -> None:
    decoder = Decoder.of(make_model(3))
    slow = shapes_of(decoder.blocks[0], "joint")[GROUPS[2]]
    result = solved(decoder, ids, keep=0.7, fold=False, drop=False, narrow=False,
                    cost_table=table(decoder, tmp_path, slow=[slow]))
    pairs = [edit for edit in result.edits if isinstance(edit, LowRank)]
    assert pairs
    assert all(edit.shape != slow for edit in pairs)


def test_speedup_is_reached_by_the_table(make_model: MakeModel, ids: np.ndarray, tmp_path: Path) -> None:
    decoder = Decoder.of(make_model(3))
    result = solved(decoder, ids, speedup=1.5, cost_table=table(decoder, tmp_path))
    assert stored_numbers(decoder, result) <= decoder.site_parameters / 1.5


@pytest.mark.parametrize("effort", ["low", "normal"])
def test_where_no_pair_pays_a_fold_may_save_more_than_it_must(
    make_model: MakeModel, ids: np.ndarray, tmp_path: Path, effort: str
) -> None:
    decoder = Decoder.of(make_model(3))
    slow = set(shapes_of(decoder.blocks[0], "joint").values())
    result = solved(decoder, ids, speedup=1.1, effort=effort, drop=False, narrow=False,
                    cost_table=table(decoder, tmp_path, slow=slow))
    assert not [edit for edit in result.edits if isinstance(edit, LowRank)]
    assert stored_numbers(decoder, result) == decoder.site_parameters * 2 // 3


@pytest.mark.parametrize("effort", ["low", "normal"])
def test_where_no_pair_pays_narrower_mlps_do(
    make_model: MakeModel, ids: np.ndarray, tmp_path: Path, effort: str
) -> None:
    decoder = Decoder.of(make_model(3))
    slow = set(shapes_of(decoder.blocks[0], "joint").values())
    result = solved(decoder, ids, speedup=1.1, effort=effort, cost_table=table(decoder, tmp_path, slow=slow))
    assert not [edit for edit in result.edits if isinstance(edit, LowRank)]
    assert [edit for edit in result.edits if isinstance(edit, SliceMlp)]
    share = stored_numbers(decoder, result) / decoder.site_parameters
    assert 0.95 / 1.1 < share <= 1 / 1.1, "widths meet a budget that whole blocks would overshoot"


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


@pytest.mark.parametrize("text", ["auto", "auto:keep=0.5,bytes=10", "auto:speedup=2", "auto:keep=0.5,effort=most"])
def test_settings_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="auto"):
        parse(text)


def test_a_table_of_another_model_is_refused(make_model: MakeModel, ids: np.ndarray, tmp_path: Path) -> None:
    decoder = Decoder.of(make_model(2))
    path = tmp_path / "costs.json"
    path.write_text(CostTable((Timing((3, 5), 1.0, {1: 0.5}),), {}).text())
    with pytest.raises(ValueError, match="42x80"):
        solved(decoder, ids, speedup=1.2, cost_table=str(path))
    path.write_text("{}")
    with pytest.raises(PlanFormatError):
        solved(decoder, ids, speedup=1.2, cost_table=str(path))


def test_a_budget_below_the_smallest_layout_is_refused(make_model: MakeModel, ids: np.ndarray) -> None:
    with pytest.raises(ValueError, match="smallest layout"):
        solved(Decoder.of(make_model(2)), ids, keep=0.001)


def test_where_no_program_finds_a_way_a_descent_does(
    make_model: MakeModel, ids: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Decoder.of(make_model(3))
    monkeypatch.setattr("foldrank.plans.solver.staged.choose", lambda *_: None)
    result = solved(decoder, ids, keep=0.6, effort="normal")
    assert 0.55 * decoder.site_parameters < stored_numbers(decoder, result) <= 0.6 * decoder.site_parameters
    assert not any(step["unit"] == "program" for step in result.diagnostics["auto_steps"])


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


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_few_bits_are_one_more_choice_within_bytes(
    make_model: MakeModel, ids: np.ndarray, architecture: str
) -> None:
    decoder = Decoder.of(make_model(4, architecture=architecture))
    storing = {"few_bits": True, "block_size": 16, "head_bits": "none", "embedding_bits": "none"}
    floats = 4 * (decoder.other_parameters + sum(block.parameters for block in decoder.blocks))
    found = {}
    for share in (0.5, 0.3):
        result = solved(decoder, ids, bytes=round(share * floats), effort="normal", **storing)
        stored = {edit.site: edit for edit in result.edits if isinstance(edit, QuantizeWeight)}
        assert stored
        assert all(edit.rounding == "gptq" for edit in stored.values())
        left = [(block.number, role, block.weight(role).shape) for block in result.decoder.blocks
                for role in block.roles]
        pairs = {(part.block, part.role): edit for edit in result.edits if isinstance(edit, LowRank)
                 for part in edit.site.parts}
        size = 4 * decoder.other_parameters + 4 * sum(
            block.parameters - block.site_parameters for block in result.decoder.blocks)
        for number, role, (n_in, n_out) in left:
            edit, pair = stored.get(Site(number, (role,))), pairs.get((number, role))
            shapes = [(n_in, n_out)] if pair is None else [(n_in, pair.rank), (pair.rank, n_out)]
            for rows, columns in shapes:
                blocks = -(-rows // 16)
                size += 4 * rows * columns if edit is None else columns * blocks * (2 * edit.storage.bits + 4)
        assert size <= share * floats
        assert Meter.of(decoder, split(ids)[0]).on(result.decoder).whole() == pytest.approx(
            result.predicted["auto.stored_nats"], rel=1e-3)
        found[share] = result.predicted["auto.stored_nats"]
    assert found[0.5] < found[0.3]
    with pytest.raises(ValueError, match="keep counts weights"):
        solved(decoder, ids, keep=0.5, few_bits=True)
