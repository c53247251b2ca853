"""Each kind of recovery changes its own arrays and leaves the same edits, which planner and reference read alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_families import TINY, save

from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.edits.share_weights import ShareWeights
from foldrank.edits.slice_mlp import SliceMlp
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.document import PlanDocument, Source
from foldrank.planfile.plan import Plan
from foldrank.plans.method import Result, Task
from foldrank.plans.methods import dipsvd, flap, recursive, width
from foldrank.plans.models.decoder import Decoder, load_decoder
from foldrank.plans.reference import reference_model
from foldrank.plans.simulate import apply_edits
from foldrank.plans.training.adapters import Kind, adapter
from foldrank.plans.training.recovering import Recovery, suited
from foldrank.plans.training.recovery import Training, recover
from foldrank.plans.training.stored import Stored

TEXT = np.random.default_rng(8).integers(0, 250, size=(64, 16))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A Qwen2 of six blocks, biased."""
    return Checkpoint.open(save(TINY["qwen2"], tmp_path_factory.mktemp("recovery") / "qwen2"))


@pytest.fixture(scope="module")
def decoder(tiny: Checkpoint) -> Decoder:
    return load_decoder(tiny)


def planned(tiny: Checkpoint, decoder: Decoder, found: Result) -> Plan:
    source = Source(tiny.name, tiny.config_sha256, tiny.architecture, len(decoder.blocks), {})
    return Plan(PlanDocument(source, None, (), {}, {}, found.edits), dict(found.arrays))


@pytest.fixture(scope="module")
def pairs(tiny: Checkpoint, decoder: Decoder) -> Plan:
    """Pairs everywhere."""
    found = dipsvd.run(Task(decoder, TEXT[:6], 0, source=decoder), dipsvd.Settings(keep=0.7, align=1))
    return planned(tiny, decoder, found)


@pytest.fixture(scope="module")
def narrow(tiny: Checkpoint, decoder: Decoder) -> Plan:
    """Narrower MLPs, down refit."""
    found = width.run(Task(decoder, TEXT[:6], 0, source=decoder), width.Settings(keep=0.8, align=4))
    return planned(tiny, decoder, found)


@pytest.fixture(scope="module")
def biased(tiny: Checkpoint, decoder: Decoder) -> Plan:
    """Narrower MLPs, rows of down as they were, a bias behind it."""
    found = flap.run(Task(decoder, TEXT[:6], 0, source=decoder), flap.Settings(keep=0.8, align=4))
    return planned(tiny, decoder, found)


@pytest.fixture(scope="module")
def looped(tiny: Checkpoint, decoder: Decoder) -> Plan:
    """Three blocks read one block's weights, a pair of each block's own beside them."""
    found = recursive.run(Task(decoder, TEXT[:6], 0, source=decoder), recursive.Settings(group=3, rank=4))
    return planned(tiny, decoder, found)


def agrees(tiny: Checkpoint, decoder: Decoder, found: Any) -> None:
    """The planner's model and PyTorch's, each made of the plan by code of its own, say the same, and it is what the
    curve says."""
    plan, ids = found.plan, TEXT[-8:]
    after = apply_edits(plan.edits, decoder, plan.arrays)
    reference: Any = reference_model(tiny, plan)
    with torch.no_grad():
        mine = after.logits(after.forward(ids))
        theirs = reference(input_ids=torch.from_numpy(ids), use_cache=False).logits
        dense = decoder.logits(decoder.forward(ids)).double().log_softmax(-1)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(mine.abs().max()))
    kl = float((dense.exp() * (dense - theirs.double().log_softmax(-1))).sum(-1).mean())
    assert kl == pytest.approx(min(loss for _, loss in found.curve), rel=1e-3)
    assert kl < 0.995 * found.curve[0][1]


@pytest.mark.parametrize("kind", ["middle", "diagonal"])
def test_what_stands_between_factors_is_folded_into_the_second(
    tiny: Checkpoint, decoder: Decoder, pairs: Plan, kind: Kind
) -> None:
    found = recover(decoder, pairs, TEXT, Training(kind, steps=20, measured=4, rate=0.02))
    assert found.plan.edits == pairs.edits
    for name, array in pairs.arrays.items():
        assert np.array_equal(found.plan.arrays[name], array) == name.endswith(".A"), name
    if kind == "diagonal":
        for name, array in pairs.arrays.items():
            if name.endswith(".B"):
                ratio = found.plan.arrays[name] / array
                np.testing.assert_allclose(ratio, ratio[:, :1].repeat(array.shape[1], 1), rtol=1e-4)
    agrees(tiny, decoder, found)


def test_what_widths_left_is_trained_in_the_edits_that_hold_it(
    tiny: Checkpoint, decoder: Decoder, narrow: Plan
) -> None:
    found = recover(decoder, narrow, TEXT, Training("sliced", steps=20, measured=4, rate=2e-3))
    slices = narrow.of(SliceMlp)
    assert [edit.channels for edit in found.plan.of(SliceMlp)] == [edit.channels for edit in slices]
    trained = {(edit.site.block, edit.site.role) for edit in found.plan.of(ReplaceWeight)}
    assert trained == {(edit.block, role) for edit in slices for role in ("gate", "up")}
    for before, after in zip(slices, found.plan.of(SliceMlp), strict=True):
        assert after.down is not None
        assert before.down is None or not np.array_equal(found.plan.arrays[after.down], narrow.arrays[before.down])
    for edit in found.plan.of(ReplaceWeight):
        kept = next(one.channels for one in slices if one.block == edit.site.block)
        assert found.plan.arrays[edit.tensor].shape[1] == len(kept)
    agrees(tiny, decoder, found)


def test_rows_of_down_that_stayed_become_a_down_of_the_slice(
    tiny: Checkpoint, decoder: Decoder, biased: Plan
) -> None:
    assert all(edit.down is None for edit in biased.of(SliceMlp))
    found = recover(decoder, biased, TEXT, Training("sliced", steps=20, measured=4, rate=2e-3))
    assert {edit.down for edit in found.plan.of(SliceMlp)} == {f"{edit.name}.down" for edit in biased.of(SliceMlp)}
    assert not [edit for edit in found.plan.of(ReplaceWeight) if edit.site.role == "down"]
    agrees(tiny, decoder, found)


def test_norms_train_the_biases_that_the_plan_adds(tiny: Checkpoint, decoder: Decoder, biased: Plan) -> None:
    found = recover(decoder, biased, TEXT, Training("norms", steps=20, measured=4, rate=0.02))
    assert found.plan.of(SliceMlp) == biased.of(SliceMlp)
    for edit in biased.of(SliceMlp):
        assert not np.array_equal(found.plan.arrays[edit.bias], biased.arrays[edit.bias])
    assert not [edit for edit in found.plan.of(ReplaceWeight) if edit.site.role in ("o", "down")]
    agrees(tiny, decoder, found)


def test_adapters_that_were_not_trained_leave_slices_and_biases_as_they_are(decoder: Decoder, biased: Plan) -> None:
    stored = Stored.of(decoder, biased, dense=True)
    after = apply_edits(biased.edits, decoder, biased.arrays)
    for kind in ("sliced", "lora", "norms"):
        made = adapter(kind, stored, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
        for block in after.blocks:
            tensors = stored.block(block.number, made.matrix).tensors
            assert all(torch.equal(tensors[name].float(), tensor.float()) for name, tensor in block.tensors.items())


@pytest.mark.parametrize("target", ["features", "both"])
def test_features_can_be_aimed_at(decoder: Decoder, pairs: Plan, target: Any) -> None:
    found = recover(decoder, pairs, TEXT, Training("factors", steps=12, measured=3, target=target))
    predicted = found.plan.document.predicted
    assert predicted["recover.kl_after"] < 0.995 * predicted["recover.kl_before"]
    assert found.plan.document.steps[-1].settings["target"] == target


def test_a_kind_that_has_nothing_to_train_is_refused_with_what_has(
    decoder: Decoder, pairs: Plan, narrow: Plan
) -> None:
    with pytest.raises(ValueError, match="narrows no MLP; take factors, lora or norms"):
        recover(decoder, pairs, TEXT, Training("sliced", steps=1))
    with pytest.raises(ValueError, match="has no pairs; take factors, sliced, lora or norms"):
        recover(decoder, narrow, TEXT, Training("middle", steps=1))
    with pytest.raises(ValueError, match="take sliced, lora or norms"):
        recover(decoder, narrow, TEXT, Training("factors", steps=1))


def test_without_a_kind_the_plan_decides(decoder: Decoder, pairs: Plan, narrow: Plan) -> None:
    roles = decoder.family.roles
    assert (suited(pairs, roles), suited(narrow, roles)) == ("factors", "sliced")
    nothing = Plan(PlanDocument(pairs.document.source, None, (), {}, {}, ()), {})
    assert suited(nothing, roles) == "lora"
    training = Recovery(None, minutes=2).training(narrow, roles)
    assert (training.kind, training.minutes, training.batch) == ("sliced", 2, 2)


@pytest.mark.parametrize("kind", ["factors", "lora"])
def test_what_blocks_share_is_trained_once_for_all_of_them(
    tiny: Checkpoint, decoder: Decoder, looped: Plan, kind: Kind
) -> None:
    found = recover(decoder, looped, TEXT, Training(kind, steps=20, measured=4, rate=3e-3))
    assert found.plan.edits == looped.edits
    written = {edit.site for edit in found.plan.of(ReplaceWeight)} - {edit.site for edit in looped.of(ReplaceWeight)}
    assert not written, "every block is in a group"
    assert not any(np.array_equal(found.plan.arrays[name], array) for name, array in looped.arrays.items())
    agrees(tiny, decoder, found)


def test_what_is_lent_as_it_was_is_written_at_the_lender_alone(tiny: Checkpoint, decoder: Decoder) -> None:
    """Block 2 reads block 4's MLP: above it, so that the borrower comes first."""
    edits = (ShareWeights(2, 4, ("gate", "up", "down")),)
    plan = Plan(PlanDocument(Source(tiny.name, tiny.config_sha256, tiny.architecture, 6, {}), None, (), {}, {}, edits),
                {})
    found = recover(decoder, plan, TEXT, Training("lora", steps=20, measured=4, rate=3e-3))
    written = {edit.site for edit in found.plan.of(ReplaceWeight)}
    assert {(site.block, site.role) for site in written} == {
        (block, role) for block in range(6) for role in decoder.family.roles
        if block != 2 or role not in ("gate", "up", "down")}
    assert found.plan.edits[-1] == edits[0]
    agrees(tiny, decoder, found)


@pytest.mark.parametrize(("kind", "why"), [("norms", "is shared by several blocks"),
                                           ("scales", "it is not seen that blocks share weights; take factors")])
def test_what_would_change_the_other_blocks_is_refused(decoder: Decoder, looped: Plan, kind: Kind, why: str) -> None:
    with pytest.raises(ValueError, match=f"recover {kind}: .*{why}"):
        recover(decoder, looped, TEXT, Training(kind, steps=2))
