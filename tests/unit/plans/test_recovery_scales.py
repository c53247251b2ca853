"""Scales that are trained beside numbers that stay: their slopes, what else the plan keeps, and what it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tiny_families import TINY, save

from foldrank.edits.base import BesideEdit, adapter_factors
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.edits.storage import StorageEdit
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.document import PlanDocument, Source
from foldrank.planfile.plan import Plan
from foldrank.plans.bits.holding import nearest_held
from foldrank.plans.method import Result, Task
from foldrank.plans.methods import dipsvd, flap, quantize
from foldrank.plans.models.decoder import Decoder, load_decoder
from foldrank.plans.reference import reference_model
from foldrank.plans.simulate import apply_edits
from foldrank.plans.training.adapters import adapter
from foldrank.plans.training.gradients import Gradients
from foldrank.plans.training.recovering import suited
from foldrank.plans.training.recovery import Recovered, Training, recover
from foldrank.plans.training.stored import Stored
from foldrank.plans.training.teacher import Teacher

TEXT = np.random.default_rng(8).integers(0, 250, size=(64, 16))
TRAINING = Training("scales", steps=20, batch=4, measured=2, held=8, rate=2e-3)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A Qwen2 of six blocks, biased."""
    return Checkpoint.open(save(TINY["qwen2"], tmp_path_factory.mktemp("scales") / "qwen2"))


@pytest.fixture(scope="module")
def decoder(tiny: Checkpoint) -> Decoder:
    return load_decoder(tiny)


MakePlan = Callable[..., Plan]


@pytest.fixture(scope="module")
def planned(tiny: Checkpoint, decoder: Decoder) -> MakePlan:
    """A plan of a fold, pairs or narrower MLPs, whatever is named, and of 4 bits."""
    before: dict[str, Callable[[Task], Result]] = {
        "": lambda task: Result(task.decoder, (), kept=1.0),
        "pairs": lambda task: dipsvd.run(task, dipsvd.Settings(keep=0.7, align=1)),
        "slices": lambda task: flap.run(task, flap.Settings(keep=0.8, align=4)),
        "fold": lambda task: Result(apply_edits([FoldBlocks(1, (1, 2), {1: 0.3, 2: 0.7})], decoder, {}),
                                    (FoldBlocks(1, (1, 2), {1: 0.3, 2: 0.7}),), kept=1.0),
    }

    @cache
    def made(first: str = "", **settings: Any) -> Plan:
        one = before[first](Task(decoder, TEXT[:6], 0, source=decoder))
        two = quantize.run(Task(one.decoder, TEXT[:6], 0, source=decoder), quantize.Settings(
            **{"block_size": 16, "accuracy": 0, **settings}))
        source = Source(tiny.name, tiny.config_sha256, tiny.architecture, len(decoder.blocks), {})
        return Plan(PlanDocument(source, None, (), {}, {}, (*one.edits, *two.edits)), {**one.arrays, **two.arrays})

    return made


def scales_of(plan: Plan) -> set[str]:
    return {numbers.scales for edit in plan.of(QuantizeWeight) for numbers in edit.held}


def loss_of(decoder: Decoder, logits: torch.Tensor) -> float:
    with torch.no_grad():
        dense = decoder.logits(decoder.forward(TEXT[-8:])).double().log_softmax(-1)
        return float((dense.exp() * (dense - logits.double().log_softmax(-1))).sum(-1).mean())


def agrees(tiny: Checkpoint, decoder: Decoder, found: Recovered) -> None:
    """The planner's model and PyTorch's, each made of the plan by code of its own, say the same, and lose what recovery
    says: head and table of words are rounded in all three."""
    after = apply_edits(found.plan.edits, decoder, found.plan.arrays)
    model: Any = reference_model(tiny, found.plan)
    with torch.no_grad():
        mine = after.logits(after.forward(TEXT[-8:]))
        theirs = model(input_ids=torch.from_numpy(TEXT[-8:]), use_cache=False).logits
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(mine.abs().max()))
    assert loss_of(decoder, theirs) == pytest.approx(min(loss for _, loss in found.curve), rel=1e-4)


@pytest.mark.parametrize("symmetric", [True, False])
def test_slopes_of_scales_are_sums_over_their_blocks(decoder: Decoder, planned: MakePlan, symmetric: bool) -> None:
    """Against float64 numpy, on what the plan holds: dL/dg = s sum over the block of (q - z) dL/dW."""
    plan = planned(symmetric=symmetric)
    made = adapter("scales", Stored.rounded(decoder, plan), torch.Generator())
    edit = next(edit for edit in plan.of(QuantizeWeight) if edit.site.role == "down")
    (held,) = edit.held
    packed, scales = plan.arrays[held.numbers], plan.arrays[held.scales].astype(np.float64)
    steps = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*scales.shape, 16).astype(np.float64)
    if symmetric:
        steps -= 8
    else:
        zeros = plan.arrays[held.zeros]
        steps -= np.stack([zeros & 15, zeros >> 4], axis=-1).reshape(len(zeros), -1)[:, : scales.shape[1], None]
    matrix, gains = made.matrix(held.scales), made.parameters[held.scales]
    wanted = (steps * scales[..., None]).reshape(len(scales), -1)[:, : edit.shape[0]].T
    np.testing.assert_allclose(matrix.detach().numpy(), wanted, rtol=1e-6)
    given = np.random.default_rng(0).standard_normal(edit.shape)
    (matrix * torch.from_numpy(given)).sum().backward()
    padded = np.zeros((len(scales), steps[0].size))
    padded[:, : edit.shape[0]] = given.T
    slope = (steps * padded.reshape(steps.shape)).sum(axis=-1) * scales
    assert gains.grad is not None
    np.testing.assert_allclose(gains.grad.numpy().T, slope, rtol=1e-4, atol=1e-6 * np.abs(slope).max())


def test_the_loss_moves_as_the_slopes_say(decoder: Decoder, planned: MakePlan) -> None:
    stored = Stored.rounded(decoder, planned("pairs"))
    made = adapter("scales", stored, torch.Generator())
    gradients = Gradients(stored, made, Teacher(decoder))
    gradients.backward(TEXT[:4])
    slopes = {name: gains.grad.clone() for name, gains in made.parameters.items() if gains.grad is not None}
    assert slopes.keys() == made.parameters.keys()
    length = float(sum(slope.square().sum() for slope in slopes.values())) ** 0.5

    def at(step: float) -> float:
        with torch.no_grad():
            for name, gains in made.parameters.items():
                gains.copy_(1 + step / length * slopes[name])
        return gradients.loss(TEXT[:4])

    assert (at(0.02) - at(-0.02)) / 0.04 == pytest.approx(length, rel=5e-3)


@pytest.mark.parametrize(("first", "settings"), [
    ("", {"head_bits": 4}), ("slices", {"symmetric": False}), ("fold", {"rounding": "nearest"}),
    ("pairs", {"rounding": "nearest", "symmetric": False}),
])
def test_scales_alone_change(
    tiny: Checkpoint, decoder: Decoder, planned: MakePlan, first: str, settings: dict[str, Any]
) -> None:
    plan = planned(first, **settings)
    found = recover(decoder, plan, TEXT, TRAINING)
    holds = nearest_held(decoder, plan)
    assert found.plan.edits == holds.edits
    assert [replace(edit, held=()) if isinstance(edit, StorageEdit) and edit.rounding == "nearest" else edit
            for edit in found.plan.edits] == list(plan.edits)
    changed = {name for name, array in holds.arrays.items() if not np.array_equal(array, found.plan.arrays[name])}
    assert found.plan.arrays.keys() == holds.arrays.keys()
    assert changed == scales_of(holds)
    assert min(loss for _, loss in found.curve) < 0.995 * found.curve[0][1]
    agrees(tiny, decoder, found)


def test_numbers_to_nearest_that_a_plan_holds_compute_what_it_computed(decoder: Decoder, planned: MakePlan) -> None:
    for first, settings in (("", {}), ("pairs", {"symmetric": False}), ("slices", {"bits": 8})):
        plan = planned(first, rounding="nearest", **settings)
        holds = nearest_held(decoder, plan)
        one, other = (apply_edits(p.edits, decoder, p.arrays) for p in (plan, holds))
        for block, again in zip(one.blocks, other.blocks, strict=True):
            assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in block.tensors.items())
        assert nearest_held(decoder, holds) is holds


def test_scales_that_do_not_help_leave_the_plan(decoder: Decoder, planned: MakePlan) -> None:
    plan = planned(rounding="nearest")
    found = recover(decoder, plan, TEXT, Training("scales", steps=2, measured=2, rate=5.0))
    assert found.plan.edits == plan.edits
    assert found.plan.arrays == plan.arrays


def test_a_plan_without_few_bits_has_no_scales(decoder: Decoder, planned: MakePlan) -> None:
    plan = planned("pairs")
    floats = replace(plan, document=replace(plan.document, edits=plan.at_sites))
    with pytest.raises(ValueError, match="stores no weight in few bits; take factors, sliced, lora or norms"):
        recover(decoder, floats, TEXT, Training("scales", steps=1))


def test_a_plan_of_few_bits_alone_is_recovered_by_its_scales(decoder: Decoder, planned: MakePlan) -> None:
    plan, roles = planned(rounding="nearest"), decoder.family.roles
    assert (suited(plan, roles), suited(planned("fold"), roles), suited(planned("pairs"), roles)) == (
        "scales", "lora", "factors")
    some = [edit for edit in plan.edits if not (isinstance(edit, QuantizeWeight) and edit.site.role == "k")]
    assert suited(replace(plan, document=replace(plan.document, edits=tuple(some))), roles) == "lora"


def test_pairs_beside_are_none_of_its_matter(decoder: Decoder, planned: MakePlan) -> None:
    plan = planned(correct_rank=4)
    with pytest.raises(ValueError, match="pairs beside the weights"):
        recover(decoder, plan, TEXT, TRAINING)
    edits = [replace(edit, factors=adapter_factors(edit.site)) if isinstance(edit, BesideEdit) else edit
             for edit in plan.edits]
    adapted = replace(plan, document=replace(plan.document, edits=tuple(edits)))
    with pytest.raises(ValueError, match="does not see the adapter"):
        recover(decoder, adapted, TEXT, replace(TRAINING, kind="lora"))
