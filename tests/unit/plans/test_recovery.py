"""Recovery on small random decoders: held-out loss falls, sites apart stay, plans stay true to the graph's digests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.digests import WeightDigest
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.edits.slice_mlp import SliceMlp
from foldrank.planfile.document import PlanDocument, Source
from foldrank.planfile.plan import Plan
from foldrank.plans.method import Task
from foldrank.plans.methods import quantize
from foldrank.plans.methods.dipsvd import Settings, run
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.simulate import apply_edits
from foldrank.plans.training.adapters import Kind, adapter
from foldrank.plans.training.recovery import Training, recover
from foldrank.plans.training.stored import Stored
from foldrank.plans.training.teacher import Teacher

MakeModel = Callable[..., Any]
FOLD = FoldBlocks(1, (1, 2), {1: 0.0, 2: 1.0})


def planned(decoder: Decoder, ids: np.ndarray, *, fold: bool = False) -> Plan:
    """A DipSVD plan, after a fold or not."""
    folds = (FOLD,) if fold else ()
    task = Task(apply_edits(folds, decoder, {}), ids, 0, source=decoder)
    found = run(task, Settings(keep=0.7, align=1))
    source = Source("tiny", "0" * 64, "x", len(decoder.blocks), {})
    return Plan(PlanDocument(source, None, (), {}, {}, (*folds, *found.edits)), dict(found.arrays))


@pytest.fixture(scope="module")
def text() -> np.ndarray:
    return np.random.default_rng(8).integers(0, 61, size=(40, 16))


@pytest.mark.parametrize("kind", ["factors", "lora", "norms"])
def test_held_out_loss_falls_and_nothing_else_changes(
    make_model: MakeModel, ids: np.ndarray, text: np.ndarray, kind: Kind
) -> None:
    decoder = Decoder.of(make_model(3, architecture="qwen2"))
    before = {name: tensor.clone() for block in decoder.blocks for name, tensor in block.tensors.items()}
    plan = planned(decoder, ids, fold=True)
    found = recover(decoder, plan, text, Training(kind, steps=25, measured=5))
    losses = dict(found.curve)
    assert min(losses.values()) < 0.98 * losses[0]
    assert found.plan.document.predicted["recover.kl_after"] == min(losses.values())
    assert found.plan.of(LowRank) == plan.of(LowRank)
    assert found.plan.of(FoldBlocks) == plan.of(FoldBlocks)
    touched = {e.site for e in found.plan.of(ReplaceWeight)}
    if kind == "factors":
        assert not touched
    if kind == "norms":
        assert not {site for site in touched if set(site.roles) & {"o", "down"}}
    assert all(torch.equal(before[n], t) for b in decoder.blocks[-1:] for n, t in b.tensors.items())
    assert found.plan.document.steps[-1].method == "recover"


def test_the_curve_is_that_of_the_plan_that_comes_back(
    make_model: MakeModel, ids: np.ndarray, text: np.ndarray
) -> None:
    model = make_model(3)
    decoder = Decoder.of(model)
    found = recover(decoder, planned(decoder, ids), text, Training("lora", steps=10, measured=2, held=5))
    stored = Stored.of(decoder, found.plan, dense=False)
    blocks = stored.blocks(stored.matrices())
    with torch.no_grad():
        wanted = model(input_ids=torch.from_numpy(text[-5:]), use_cache=False).logits.double().log_softmax(-1)
        hidden = decoder.embed(text[-5:])
        for block in blocks:
            hidden = decoder.run(block, hidden)
        got = decoder.logits(hidden).double().log_softmax(-1)
    kl = float((wanted.exp() * (wanted - got)).sum(-1).mean())
    assert kl == pytest.approx(min(loss for _, loss in found.curve), rel=1e-3)


def test_digests_are_of_what_the_fold_leaves(make_model: MakeModel, ids: np.ndarray, text: np.ndarray) -> None:
    decoder = Decoder.of(make_model(4))
    source = Source("tiny", "0" * 64, "x", 4, {})
    plan = Plan(PlanDocument(source, None, (), {}, {}, (FOLD,)), {})
    found = recover(decoder, plan, text, Training("lora", steps=4, measured=1))
    assert {edit.site.block for edit in found.plan.of(ReplaceWeight)} == {0, 1, 3}
    for edit in found.plan.of(ReplaceWeight):
        old = decoder.blocks[2 if edit.site.block == 1 else edit.site.block].weight(edit.site.role)
        assert edit.replaces == (WeightDigest.of(old.numpy()),)
        assert found.plan.arrays[edit.tensor].shape == tuple(old.shape)


def test_recovery_that_does_not_help_leaves_the_plan(make_model: MakeModel, ids: np.ndarray, text: np.ndarray) -> None:
    decoder = Decoder.of(make_model(3))
    plan = planned(decoder, ids)
    found = recover(decoder, plan, text, Training("factors", steps=3, measured=3, rate=50.0))
    assert found.plan.edits == plan.edits
    assert all(np.array_equal(found.plan.arrays[name], plan.arrays[name]) for name in plan.arrays)


def test_the_same_seed_trains_the_same_plan(make_model: MakeModel, ids: np.ndarray, text: np.ndarray) -> None:
    decoder = Decoder.of(make_model(2))
    plan = planned(decoder, ids)
    one, two = (recover(decoder, plan, text, Training("lora", steps=3, measured=1), seed=4).plan for _ in range(2))
    assert one.edits == two.edits
    assert all(np.array_equal(one.arrays[name], two.arrays[name]) for name in one.arrays)


def test_untrained_adapters_leave_every_matrix(make_model: MakeModel, ids: np.ndarray) -> None:
    decoder = Decoder.of(make_model(2))
    stored = Stored.of(decoder, planned(decoder, ids), dense=True)
    for kind in ("factors", "lora", "norms", "middle", "diagonal"):
        made = adapter(kind, stored, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
        for name, matrix in stored.matrices().items():
            assert torch.equal(made.matrix(name), matrix)


def test_a_plan_without_matrices_has_no_factors_to_train(make_model: MakeModel, text: np.ndarray) -> None:
    plan = Plan(PlanDocument(Source("tiny", "0" * 64, "x", 4, {}), None, (), {}, {}, (FOLD,)), {})
    with pytest.raises(ValueError, match="lora or norms"):
        recover(Decoder.of(make_model(4)), plan, text, Training("factors", steps=1))
    with pytest.raises(ValueError, match="two windows"):
        recover(Decoder.of(make_model(4)), plan, text[:1], Training("lora", steps=1))


@pytest.mark.parametrize(("narrow", "kind"), [(False, LowRank), (True, SliceMlp)])
def test_edits_that_were_replaced_weights_are_trained_in_place(
    make_model: MakeModel, ids: np.ndarray, text: np.ndarray, narrow: bool, kind: type
) -> None:
    from foldrank.plans.methods.auto import run as solve
    from foldrank.plans.solver.settings import Settings as AutoSettings

    decoder = Decoder.of(make_model(3))
    made = solve(Task(decoder, ids, 0, source=decoder), AutoSettings(
        keep=0.7, effort="low", align=1, narrow=narrow, drop=False))
    source = Source("tiny", "0" * 64, "x", 3, {})
    plan = Plan(PlanDocument(source, None, (), {}, {}, made.edits), dict(made.arrays))
    found = recover(decoder, plan, text, Training("factors", steps=8, measured=2))
    assert found.plan.edits == plan.edits
    assert any(isinstance(edit, ReplaceWeight) for edit in plan.edits)
    assert any(isinstance(edit, kind) for edit in plan.edits)
    assert found.curve[-1][1] < found.curve[0][1]


def test_training_that_is_too_fast_goes_on_slower_from_the_best_state(
    make_model: MakeModel, ids: np.ndarray, text: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Decoder.of(make_model(3))
    plan = planned(decoder, ids)
    fast = Training("factors", steps=80, measured=20, rate=0.04)
    slowed = recover(decoder, plan, text, fast)
    monkeypatch.setattr("foldrank.plans.training.course.LOWERED", 0)
    stopped = recover(decoder, plan, text, fast)
    assert slowed.curve[: len(stopped.curve)] == stopped.curve
    assert min(loss for _, loss in stopped.curve) == stopped.curve[0][1]
    assert min(loss for _, loss in slowed.curve) < 0.99 * slowed.curve[0][1]


def test_what_is_stored_in_few_bits_stays_last_and_is_trained_before_it_is_rounded(
    make_model: MakeModel, ids: np.ndarray, text: np.ndarray
) -> None:
    decoder = Decoder.of(make_model(3, architecture="qwen2"))
    plan = planned(decoder, ids)
    task = Task(apply_edits(plan.edits, decoder, plan.arrays), ids, 0, source=decoder)
    rounding = quantize.run(task, quantize.Settings(block_size=16, rounding="nearest")).edits
    plan = replace(plan, document=replace(plan.document, edits=(*plan.edits, *rounding)))
    found = recover(decoder, plan, text, Training("lora", steps=25, measured=5))
    assert found.plan.of(ReplaceWeight)
    assert found.plan.edits[-len(rounding):] == rounding
    assert found.plan.edits[: len(plan.of(LowRank))] == plan.of(LowRank)
    before, after = (p.arrays[plan.of(LowRank)[0].factors[0]] for p in (plan, found.plan))
    assert not np.array_equal(before, after)
    assert len(np.unique(after[:16, 0])) == 16  # not rounded: 16 values that share a scale of 4 bits would repeat


def test_the_teacher_tells_each_window_as_the_model_does_and_computes_it_once(
    make_model: MakeModel, text: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(2)
    teacher, asked = Teacher(Decoder.of(model), room=4 * 16 * 42), []
    forward = Decoder.forward
    monkeypatch.setattr(Decoder, "forward", lambda self, ids: asked.append(len(ids)) or forward(self, ids))
    wanted = model(input_ids=torch.from_numpy(text[:6]), use_cache=False).logits.detach().log_softmax(-1)
    for rows in ([0, 1], [1, 2], [3, 0], [4, 5, 1]):
        told = teacher.source.logits(teacher.last(text[rows])).log_softmax(-1)
        torch.testing.assert_close(told, wanted[rows], rtol=1e-5, atol=1e-5)
    assert asked == [2, 1, 1, 2]
    teacher.last(text[[0]])
    assert asked[-1] == 1, "the oldest of six left when only four had room"


def test_a_teacher_that_two_plans_share_changes_nothing(
    make_model: MakeModel, ids: np.ndarray, text: np.ndarray
) -> None:
    decoder = Decoder.of(make_model(2))
    plan, training, teacher = planned(decoder, ids), Training("factors", steps=3, measured=1), Teacher(decoder)
    alone = dict(recover(decoder, plan, text, training).curve)
    for _ in range(2):
        assert dict(recover(decoder, plan, text, training, teacher=teacher).curve) == pytest.approx(alone)
