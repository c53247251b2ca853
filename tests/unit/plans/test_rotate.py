"""rotate: signs from the seed, before what stores or factors; what follows works in the basis that it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_families import TINY, save

from foldrank.edits.base import Phase
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.rotate_stream import RotateStream
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.calibration import calibration_windows
from foldrank.plans.compose import parse_all, plan_of, run_all
from foldrank.plans.method import Task
from foldrank.plans.methods.rotate import METHOD, Settings, random_signs, run, turning
from foldrank.plans.models.decoder import Decoder, load_decoder
from foldrank.plans.reference import reference_model
from foldrank.plans.simulate import apply_edits
from foldrank.plans.training.adapters import Kind
from foldrank.plans.training.recovering import suited
from foldrank.plans.training.recovery import Training, recover

TEXT = np.random.default_rng(8).integers(0, 250, size=(64, 16))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A Qwen2 of six blocks, biased."""
    folder = save(TINY["qwen2"], tmp_path_factory.mktemp("rotated") / "qwen2")
    return Checkpoint.open(folder)


@pytest.fixture(scope="module")
def decoder(tiny: Checkpoint) -> Decoder:
    return load_decoder(tiny)


def made(tiny: Checkpoint, decoder: Decoder, *methods: str) -> Any:
    windows = calibration_windows(tiny, None, 256, 0)
    return plan_of(tiny, decoder, windows, run_all(decoder, parse_all(methods), TEXT[:6], 0))


def lost(decoder: Decoder, after: torch.Tensor) -> float:
    with torch.no_grad():
        dense = decoder.logits(decoder.forward(TEXT[-8:])).double().log_softmax(-1)
        return float((dense.exp() * (dense - after.double().log_softmax(-1))).sum(-1).mean())


def test_signs_are_drawn_from_the_seed() -> None:
    assert random_signs(12, 0) == "7d70"
    assert random_signs(12, 1) != random_signs(12, 0)
    assert RotateStream(12, random_signs(12, 0), (0,), (0,))


@pytest.mark.parametrize(("family", "methods"), [
    ("gemma", ("rotate",)), ("gemma2", ()),
    *((family, ("pre_rmsnorm", "rotate")) for family in ("gpt2", "opt", "gptneox"))])
def test_what_rotates_the_stream_is_known_beforehand(family: str, methods: tuple[str, ...], tmp_path: Path) -> None:
    decoder = load_decoder(Checkpoint.open(save(TINY[family], tmp_path / family)))
    assert turning(decoder) == methods
    assert not methods or run_all(decoder, parse_all(methods), TEXT[:2], 0)


def test_it_turns_the_branches_that_are_left(decoder: Decoder) -> None:
    drops = [DropBranch(0, "attention"), DropBranch(3, "attention"), DropBranch(3, "mlp")]
    left = apply_edits(drops, decoder, {})
    (edit,) = run(Task(left, TEXT[:2], 0, source=decoder), Settings()).edits
    assert isinstance(edit, RotateStream)
    assert (edit.attention, edit.mlp, edit.width) == ((1, 2, 4, 5), (0, 1, 2, 4, 5), 64)


def test_it_comes_behind_widths_and_before_weights() -> None:
    assert METHOD.phase is Phase.ROTATION
    parse_all(["slm:keep=0.8", "width:keep=0.9", "rotate", "dipsvd:keep=0.8", "quantize:bits=4"])
    with pytest.raises(ValueError, match="rotate the stream come before those that replace weights"):
        parse_all(["dipsvd:keep=0.8", "rotate"])
    with pytest.raises(ValueError, match="unknown setting seed"):
        parse_all(["rotate:seed=3"])


@pytest.mark.parametrize("methods", [
    ("rotate",), ("rotate", "quantize:bits=4,block_size=16,accuracy=0"),
    ("width:keep=0.8", "rotate", "dipsvd:keep=0.8", "quantize:bits=4,block_size=16,accuracy=0,rounding=nearest")])
def test_what_follows_plans_in_the_new_basis(methods: tuple[str, ...], tiny: Checkpoint, decoder: Decoder) -> None:
    """Planner and PyTorch say the same after each, rounded to nearest by each of them too."""
    plan = made(tiny, decoder, *methods)
    after = apply_edits(plan.edits, decoder, plan.arrays)
    model: Any = reference_model(tiny, plan)
    with torch.no_grad():
        here = after.logits(after.forward(TEXT[-8:]))
        there = model(input_ids=torch.from_numpy(TEXT[-8:]), use_cache=False).logits
    torch.testing.assert_close(here, there, rtol=0, atol=1e-4)
    assert (lost(decoder, here) > 1e-4) == (len(methods) > 1)


def test_few_bits_lose_less_where_channels_of_a_weight_stood_out(tiny: Checkpoint) -> None:
    """One channel of the stream large in every reader, as gains make it: its block of 16 has a wide range."""
    model: Any = load_decoder(tiny).model
    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm.weight[5] = layer.post_attention_layernorm.weight[5] = 0.02
            for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj, layer.mlp.gate_proj,
                           layer.mlp.up_proj):
                linear.weight[:, 5] *= 50
    decoder = Decoder.of(model)
    losses = []
    few = "quantize:rounding=nearest,block_size=16,accuracy=0,head_bits=none,embedding_bits=none"
    for methods in ([few], ["rotate", few]):
        after = run_all(decoder, parse_all(methods), TEXT[:2], 0)[-1].result.decoder
        with torch.no_grad():
            losses.append(lost(decoder, after.logits(after.forward(TEXT[-8:]))))
    assert losses[1] < 0.7 * losses[0]


@pytest.mark.parametrize(("kind", "methods"), [
    ("scales", ("rotate", "quantize:bits=4,block_size=16,accuracy=0")), ("factors", ("rotate", "dipsvd:keep=0.7"))])
def test_recovery_trains_in_the_new_basis(
    kind: Kind, methods: tuple[str, ...], tiny: Checkpoint, decoder: Decoder
) -> None:
    """From what the plan loses on, and what it writes back is there for all."""
    plan, roles = made(tiny, decoder, *methods), decoder.family.roles
    assert suited(plan, roles) == kind
    found = recover(decoder, plan, TEXT, Training(kind, steps=20, batch=4, measured=2, held=8, rate=2e-3))
    assert min(loss for _, loss in found.curve) < found.curve[0][1]
    before, after = (apply_edits(p.edits, decoder, p.arrays) for p in (plan, found.plan))
    model: Any = reference_model(tiny, found.plan)
    with torch.no_grad():
        here = [d.logits(d.forward(TEXT[-8:])) for d in (before, after)]
        there = model(input_ids=torch.from_numpy(TEXT[-8:]), use_cache=False).logits
    assert lost(decoder, here[0]) == pytest.approx(found.curve[0][1], rel=1e-4)
    torch.testing.assert_close(here[1], there, rtol=0, atol=1e-4)


def test_recovery_of_a_rotated_model_is_towards_logits(tiny: Checkpoint, decoder: Decoder) -> None:
    plan = made(tiny, decoder, "rotate")
    assert suited(plan, decoder.family.roles) == "lora", "no scales are there to be trained"
    with pytest.raises(ValueError, match="recovery towards features: features of a stream that was rotated"):
        recover(decoder, plan, TEXT, Training("lora", steps=1, target="features"))
