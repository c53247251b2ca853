"""Rounding a model from the bottom up: what each weight is rounded on, what the plan then holds, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny_families import TINY, random_model

from foldrank.edits.add_low_rank import AddLowRank
from foldrank.edits.quantize_embedding import QuantizeEmbedding
from foldrank.edits.quantize_head import QuantizeHead
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.planfile.document import PlanDocument, Source
from foldrank.planfile.plan import Plan
from foldrank.plans.bits import inputs
from foldrank.plans.bits.again import rounded_again
from foldrank.plans.bits.correcting import corrected_sites, correction
from foldrank.plans.low_rank.grams import block_statistics
from foldrank.plans.method import Result, Task
from foldrank.plans.methods import dipsvd, quantize
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.simulate import apply_edits
from foldrank.sites import Site

MakeModel = Callable[..., Any]
EXACT = {"bits": 4, "block_size": 16, "head_bits": None, "embedding_bits": None}


def quantized(decoder: Decoder, ids: np.ndarray, **settings: Any) -> Result:
    return quantize.run(Task(decoder, ids, 0, source=decoder), quantize.Settings(**{**EXACT, **settings}))


def distance(one: Decoder, other: Decoder, ids: np.ndarray) -> float:
    """Mean squared difference of logits."""
    with torch.no_grad():
        return float((one.logits(one.forward(ids)) - other.logits(other.forward(ids))).square().mean())


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptneox", "opt", "falcon"])
def test_a_block_run_in_stages_gives_what_it_gives_in_one(
    family: str, ids: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights that change in the middle: what is behind them sees the new ones."""
    monkeypatch.setattr(inputs, "BATCH_TOKENS", 48)
    decoder = Decoder.of(random_model(TINY[family], seed=0))
    block, hidden = decoder.blocks[1], decoder.embed(ids)
    stages = inputs.Stages(decoder, hidden)
    for role in inputs.watched(block):
        gram, _ = inputs.sums(stages.inputs(block, role), None)
        found, _ = block_statistics(decoder, block, hidden)
        torch.testing.assert_close(gram, found.inputs[role], rtol=1e-5, atol=1e-4)
        alike = [other for other in block.roles if inputs.input_of(block, other) == role]
        block = block.with_weights({other: 0.9 * block.weight(other) for other in alike})
    with torch.no_grad():
        torch.testing.assert_close(stages.output(block), decoder.run(block, hidden), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"toward": 1.0}, {"inputs": "original"}, {"symmetric": False}])
def test_it_costs_less_than_rounding_to_nearest(
    settings: dict[str, Any], make_model: MakeModel, ids: np.ndarray
) -> None:
    decoder = Decoder.of(make_model(3))
    near = quantized(decoder, ids, rounding="nearest", **{k: v for k, v in settings.items() if k == "symmetric"})
    found = quantized(decoder, ids, **settings)
    assert not near.arrays
    assert distance(found.decoder, decoder, ids) < 0.8 * distance(near.decoder, decoder, ids)


def test_the_plan_holds_what_the_planner_computed_with(make_model: MakeModel, ids: np.ndarray) -> None:
    decoder = Decoder.of(make_model(2))
    found = quantized(decoder, ids)
    assert {name for edit in found.edits for name in edit.arrays()} == set(found.arrays)
    for edit in found.edits:
        for name, shape in edit.arrays().items():
            assert found.arrays[name].shape == shape
            assert found.arrays[name].dtype == (np.uint8 if name in edit.in_bytes() else np.float32)
    assert distance(apply_edits(found.edits, decoder, found.arrays), found.decoder, ids) == 0


def test_pairs_name_one_a_and_a_b_for_each_role(make_model: MakeModel, ids: np.ndarray) -> None:
    decoder = Decoder.of(make_model(2))
    pairs = dipsvd.run(Task(decoder, ids, 0, source=decoder), dipsvd.Settings(keep=0.6, align=1))
    assert any(len(roles) > 1 for block in pairs.decoder.blocks for roles in block.pairs)
    found = quantize.run(Task(pairs.decoder, ids, 0, source=decoder), quantize.Settings(**EXACT))
    held = {edit.site: edit.held for edit in found.edits if isinstance(edit, QuantizeWeight)}
    for block in pairs.decoder.blocks:
        for roles in block.pairs:
            numbers = [held[Site(block.number, (role,))] for role in roles]
            assert len({a.numbers for a, _ in numbers}) == 1
            assert len({b.numbers for _, b in numbers}) == len(roles)
    whole = [*pairs.edits, *found.edits]
    again = apply_edits(whole, decoder, {**pairs.arrays, **found.arrays})
    assert distance(again, found.decoder, ids) == 0
    near = quantize.run(Task(pairs.decoder, ids, 0, source=decoder), quantize.Settings(**EXACT, rounding="nearest"))
    assert distance(found.decoder, pairs.decoder, ids) < distance(near.decoder, pairs.decoder, ids)


@pytest.mark.parametrize(("head", "table", "kinds"), [
    (8, 8, [QuantizeEmbedding]), (4, 8, [QuantizeHead, QuantizeEmbedding]), (None, 8, [QuantizeEmbedding]),
    (8, None, [QuantizeHead]), ("none", "16", []),
])
def test_a_tied_table_stays_one_where_both_are_stored_alike(head: Any, table: Any, kinds: list[type]) -> None:
    decoder = Decoder.of(random_model(TINY["gptneox-serial"], seed=0))
    assert decoder.tied
    edits = quantize.tables(decoder, quantize.Settings(block_size=16, head_bits=head, embedding_bits=table))
    assert [type(edit) for edit in edits] == kinds
    assert [edit.head for edit in edits if isinstance(edit, QuantizeEmbedding)] == [head == table] * (table == 8)


def test_a_width_that_no_block_fits_leaves_the_table_of_words(make_model: MakeModel) -> None:
    (edit,) = quantize.tables(Decoder.of(make_model(1)), quantize.Settings(block_size=32))
    assert (edit.kind, edit.shape, edit.storage.block_size) == ("quantize_head", (42, 61), 32)


def test_numbers_follow_weights_that_were_trained(make_model: MakeModel, ids: np.ndarray) -> None:
    decoder = Decoder.of(make_model(2))
    task = Task(decoder, ids, 0, source=decoder)
    pairs = dipsvd.run(task, dipsvd.Settings(keep=0.6, align=1))
    found = quantize.run(Task(pairs.decoder, ids, 0, source=decoder), quantize.Settings(**EXACT))
    document = PlanDocument(Source("m", "0" * 64, "L", 2, {}), None, (), {}, {}, (*pairs.edits, *found.edits))
    trained = {name: array * np.float32(2) for name, array in pairs.arrays.items()}
    plan = rounded_again(decoder, Plan(document, {**trained, **found.arrays}), ids)
    wanted = apply_edits(pairs.edits, decoder, trained)
    stale = apply_edits(document.edits, decoder, {**trained, **found.arrays})
    made = apply_edits(plan.edits, decoder, plan.arrays)
    assert distance(made, wanted, ids) < 0.3 * distance(stale, wanted, ids)
    assert set(plan.arrays) == {name for edit in plan.edits for name in edit.arrays()}


def test_a_correction_is_the_best_pair_under_the_inputs_gram() -> None:
    """By the singular values of what is lost, seen through the inputs: no pair of the rank errs less."""
    random = np.random.default_rng(0)
    inputs_NI = random.standard_normal((200, 12)) @ random.standard_normal((12, 12))
    lost_IO = random.standard_normal((12, 30))
    pair = correction(torch.from_numpy(lost_IO), torch.from_numpy(inputs_NI.T @ inputs_NI), 4)
    assert (pair.a.shape, pair.b.shape) == ((12, 4), (4, 30))
    left = inputs_NI @ (lost_IO - pair.a.double().numpy() @ pair.b.double().numpy())
    beyond = np.linalg.svd(inputs_NI @ lost_IO, compute_uv=False)[4:]
    assert np.linalg.norm(left) == pytest.approx(np.linalg.norm(beyond), rel=1e-5)
    u, s, v = np.linalg.svd(lost_IO, full_matrices=False)
    assert np.linalg.norm(left) < 0.98 * np.linalg.norm(inputs_NI @ (lost_IO - (u[:, :4] * s[:4]) @ v[:4]))


def test_roles_that_read_one_input_share_a_pair_where_all_are_stored() -> None:
    stored = [Site(0, (role,)) for role in ("q", "k", "v", "o", "up", "down")] + [Site(1, ("q",)), Site(1, ("v",))]
    assert sorted(map(str, corrected_sites(stored))) == [
        "block.00.down", "block.00.o", "block.00.qkv", "block.00.up", "block.01.q", "block.01.v"]


@pytest.mark.parametrize("settings", [{}, {"toward": 1.0}])
def test_the_loss_falls_with_the_rank_of_what_makes_up_for_rounding(
    settings: dict[str, Any], make_model: MakeModel, ids: np.ndarray
) -> None:
    decoder = Decoder.of(make_model(2))
    found = [quantized(decoder, ids, **settings, **({"correct_rank": rank} if rank else {})) for rank in (0, 12, 999)]
    plain, few, full = (distance(one.decoder, decoder, ids) for one in found)
    assert few < 0.5 * plain
    assert full < 1e-6 * plain
    assert [edit.kind for edit in found[1].edits].index("add_low_rank") == sum(
        not isinstance(edit, AddLowRank) for edit in found[1].edits)
    assert {edit.rank for edit in found[1].edits if isinstance(edit, AddLowRank)} == {12}
    again = apply_edits(found[1].edits, decoder, found[1].arrays)
    assert distance(again, found[1].decoder, ids) == 0
    pairs = sum(edit.rank * sum(edit.shape) for edit in found[1].edits if isinstance(edit, AddLowRank))
    assert found[1].decoder.stored_parameters - decoder.stored_parameters == pairs


def test_rounding_to_nearest_has_nothing_to_correct_by() -> None:
    with pytest.raises(ValueError, match="correct_rank asks for rounding=gptq"):
        quantize.Settings(rounding="nearest", correct_rank=4)


def test_pairs_beside_follow_weights_that_were_trained(make_model: MakeModel, ids: np.ndarray) -> None:
    decoder = Decoder.of(make_model(2))
    pairs = dipsvd.run(Task(decoder, ids, 0, source=decoder), dipsvd.Settings(keep=0.6, align=1))
    found = quantize.run(Task(pairs.decoder, ids, 0, source=decoder), quantize.Settings(**EXACT, correct_rank=12))
    document = PlanDocument(Source("m", "0" * 64, "L", 2, {}), None, (), {}, {}, (*pairs.edits, *found.edits))
    trained = {name: array * np.float32(2) for name, array in pairs.arrays.items()}
    plan = rounded_again(decoder, Plan(document, {**trained, **found.arrays}), ids)
    assert [edit.kind for edit in plan.edits] == [edit.kind for edit in document.edits]
    assert set(plan.arrays) == {name for edit in plan.edits for name in edit.arrays()}
    wanted = apply_edits(pairs.edits, decoder, trained)
    bare = apply_edits([edit for edit in plan.edits if not isinstance(edit, AddLowRank)], decoder, plan.arrays)
    old = {name: found.arrays[name] for edit in plan.edits if isinstance(edit, AddLowRank) for name in edit.arrays()}
    made, stale = (apply_edits(plan.edits, decoder, {**plan.arrays, **arrays}) for arrays in ({}, old))
    assert distance(made, wanted, ids) < 0.6 * distance(bare, wanted, ids)
    assert distance(made, wanted, ids) < 0.8 * distance(stale, wanted, ids)
