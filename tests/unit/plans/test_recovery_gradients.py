"""Recovery's gradients are those of the whole loss at once, however little is held; and resume where they stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foldrank.digests import WeightDigest
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.planfile.document import PlanDocument, Source
from foldrank.planfile.plan import Plan
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.resume import FolderShelf
from foldrank.plans.shelf import Finding, MemoryShelf
from foldrank.plans.simulate import apply_edits
from foldrank.plans.training import gradients as module
from foldrank.plans.training.adapters import adapter
from foldrank.plans.training.course import Course
from foldrank.plans.training.gradients import Gradients, distance, divergence
from foldrank.plans.training.recovery import Training, recover
from foldrank.plans.training.stored import Stored
from foldrank.plans.training.teacher import Teacher
from foldrank.sites import Site

MakeModel = Callable[..., Any]
TEXT = np.random.default_rng(8).integers(0, 61, size=(12, 16))


@pytest.fixture(scope="module")
def decoder(make_model: MakeModel) -> Decoder:
    """Four blocks of Qwen2."""
    return Decoder.of(make_model(4, architecture="qwen2"))


@pytest.fixture(scope="module")
def plan(decoder: Decoder) -> Plan:
    """A fold of blocks 1 and 2, and pairs in blocks 1 and 3."""
    random, arrays, edits = np.random.default_rng(0), {}, [FoldBlocks(1, (1, 2), {1: 0.3, 2: 0.7})]
    folded = apply_edits(edits, decoder, {})
    for site in (Site(1, ("down",)), Site(3, ("o",))):
        u, s, v = np.linalg.svd(folded.block(site.block).weight(site.role).numpy(), full_matrices=False)
        names = (f"{site}.A", f"{site}.B")
        arrays |= {names[0]: (u * s)[:, :9].copy(), names[1]: v[:9] + 0.01 * random.standard_normal(v[:9].shape)}
        shape = (len(u), v.shape[1])
        edits.append(LowRank(site, shape, 9, names, (WeightDigest.of(np.zeros(shape, np.float32)),)))
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    return Plan(PlanDocument(Source("tiny", "0" * 64, "x", 4, {}), None, (), {}, {}, tuple(edits)), arrays)


def made(decoder: Decoder, plan: Plan, kind: Any = "lora", **options: Any) -> Gradients:
    stored = Stored.of(decoder, plan, dense=kind != "factors")
    adapted = adapter(kind, stored, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in adapted.parameters.items():
            if name.endswith(".Q"):
                parameter.fill_(0.01)
    return Gradients(stored, adapted, Teacher(decoder), **options)


def slopes(gradients: Gradients) -> tuple[float, dict[str, Tensor]]:
    loss = gradients.backward(TEXT[:3])
    return loss, {name: p.grad.clone() for name, p in gradients.adapted.parameters.items() if p.grad is not None}


def at_once(gradients: Gradients, target: str) -> tuple[float, dict[str, Tensor]]:
    """The same by autograd through the whole model, with all logits of all tokens."""
    source, ids = gradients.source, torch.from_numpy(TEXT[:3])
    dense = source.model(input_ids=ids, use_cache=False, output_hidden_states=True)
    hidden, states = source.embed(TEXT[:3]), []
    with torch.enable_grad():
        for block in gradients.stored.blocks(gradients.adapted.apply()):
            hidden = source.run(block, hidden)
            states.append(hidden)
        wanted, found = (x.double().log_softmax(-1) for x in (dense.logits.detach(), source.logits(hidden)))
        loss = (wanted.exp() * (wanted - found)).sum() / ids.numel() * (target != "features")
        if target != "logits":  # blocks 0, 1 (which stands for 1 and 2), 3; the last is normed in `hidden_states`
            outputs = [dense.hidden_states[1], dense.hidden_states[3], source.forward(TEXT[:3])]
            for state, output in zip(states, outputs, strict=True):
                error = (state - output.detach()).square().sum(-1) / output.detach().square().sum(-1)
                loss = loss + error.mean() / 3
    names = list(gradients.adapted.parameters)
    found = torch.autograd.grad(loss, [gradients.adapted.parameters[name] for name in names], allow_unused=True)
    return loss.item(), {name: slope for name, slope in zip(names, found, strict=True) if slope is not None}


@pytest.mark.parametrize(("target", "graphs", "logits"), [
    ("logits", 0, 61 * 5), ("logits", 1 << 30, 61 * 40), ("features", 0, 61), ("both", 60_000, 61 * 16)])
def test_loss_and_slopes_in_pieces_are_those_of_the_whole(
    decoder: Decoder, plan: Plan, target: Any, graphs: int, logits: int
) -> None:
    gradients = made(decoder, plan, target=target, graphs=graphs, logits=logits)
    (loss, found), (expected, wanted) = slopes(gradients), at_once(gradients, target)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert set(found) == set(wanted) == set(gradients.adapted.parameters)
    for name, slope in wanted.items():
        torch.testing.assert_close(found[name], slope.float(), rtol=1e-4, atol=1e-6 * float(slope.abs().max()) + 1e-9)
    if target == "logits":
        assert gradients.loss(TEXT[:3]) == pytest.approx(loss, rel=1e-6)


def test_no_more_logits_are_made_at_once_than_may_be(
    decoder: Decoder, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    logits = Decoder.logits
    monkeypatch.setattr(Decoder, "logits", lambda self, hidden: shapes.append(hidden.shape) or logits(self, hidden))
    for most in (61 * 5, 61 * 33, 7):
        shapes.clear()
        made(decoder, plan, logits=most).backward(TEXT[:3])
        assert max(n * t for n, t, _ in shapes) == max(1, most // 61 // 16 * 16 or most // 61)
        assert sum(n * t for n, t, _ in shapes) == 2 * TEXT[:3].size


def test_nothing_is_run_back_below_the_lowest_block_that_trains(decoder: Decoder, plan: Plan) -> None:
    gradients = made(decoder, plan, graphs=0)
    for name, parameter in gradients.adapted.parameters.items():
        parameter.requires_grad_(gradients.adapted.blocks[name] == {3})
    run, back = Gradients._run, []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Gradients, "_run", lambda self, number, *more: back.append(number) or run(self, number, *more))
        _, found = slopes(gradients)
    assert set(back) == {3}
    assert found
    assert all(name.startswith("block.03") for name in found)


def test_slopes_are_what_a_small_step_finds(decoder: Decoder) -> None:
    dense = decoder.forward(TEXT[:2])
    offset, step = (torch.randn(dense.shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    hidden, slope = dense + 0.5 * offset * dense.std(), torch.empty_like(dense)
    divergence(decoder, dense, hidden, slope)
    step = 1e-2 * slope / slope.norm() + 1e-4 * step
    up, down = (divergence(decoder, dense, hidden + sign * step) for sign in (1, -1))
    assert float((slope * step).sum()) == pytest.approx((up - down) / 2, rel=5e-3)
    loss, slope = distance(dense, dense * 1.1)
    assert loss == pytest.approx(0.01, rel=1e-4)
    assert float((slope * dense).sum()) == pytest.approx(2 * 0.1, rel=1e-3)


def test_products_in_bfloat16_leave_parameters_and_loss_in_float32(
    decoder: Decoder, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU does, asked of the CPU's autocast."""
    _, exact = slopes(made(decoder, plan))
    assert module.mixed(torch.device("cpu")).fast_dtype is torch.bfloat16  # type: ignore[attr-defined]
    dtypes: set[torch.dtype] = set()
    run = Decoder.run

    def rounded(_device: torch.device) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    def seen(self: Decoder, block: Any, hidden: Tensor) -> Tensor:
        dtypes.add((hidden[:1, :1] @ hidden.new_zeros(hidden.shape[-1], 2)).dtype)
        return run(self, block, hidden)

    monkeypatch.setattr(module, "mixed", rounded)
    monkeypatch.setattr(Decoder, "run", seen)
    _, found = slopes(made(decoder, plan))
    assert torch.bfloat16 in dtypes
    for name, slope in exact.items():
        assert found[name].dtype is torch.float32
        assert float((found[name] - slope).norm() / slope.norm()) < 0.1


ADVANCE = Course.advance


class Cut(MemoryShelf):
    """A folder's shelf that fails at the put of this number."""

    def __init__(self, folder: Path, at: int) -> None:
        super().__init__()
        self.kept, self.left = FolderShelf(folder), at

    def get(self, name: str) -> Finding | None:
        return self.kept.get(name)

    def put(self, name: str, finding: Finding) -> Finding:
        self.kept.put(name, finding)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return finding


@pytest.mark.parametrize(("kind", "options"), [
    ("lora", {}), ("factors", {"lisa": 1, "select": "rs2"}), ("lora", {"rate": 0.5, "select": "paser"})])
def test_training_that_was_cut_short_ends_in_the_same_plan(
    decoder: Decoder, plan: Plan, tmp_path: Path, kind: Any, options: Any
) -> None:
    training = Training(kind, steps=14, measured=7, batch=2, **options)
    whole = recover(decoder, plan, TEXT, training, seed=3)
    steps = 0
    for cut in (2, 3, 100):
        with pytest.MonkeyPatch.context() as patched:
            seen: list[int] = []
            patched.setattr(Course, "advance", lambda self, seen=seen: seen.append(self.step) or ADVANCE(self))
            if cut < 100:
                with pytest.raises(KeyboardInterrupt):
                    recover(decoder, plan, TEXT, training, seed=3, shelf=Cut(tmp_path, cut))
            else:
                again = recover(decoder, plan, TEXT, training, seed=3, shelf=FolderShelf(tmp_path))
            steps += len(seen)
    assert again.curve == whole.curve
    assert again.plan.edits == whole.plan.edits
    assert steps == whole.curve[-1][0], "nothing measured is trained again"
    for name, array in whole.plan.arrays.items():
        assert np.array_equal(again.plan.arrays[name], array), name


def test_lisa_trains_few_blocks_at_a_time_and_knows_no_more(decoder: Decoder, plan: Plan) -> None:
    gradients = made(decoder, plan)
    course = Course(gradients.adapted, 1e-3, 200, seed=1, lisa=1)
    together: set[frozenset[int]] = set()
    for step in range(200):
        trained = {n for n, p in gradients.adapted.parameters.items() if p.requires_grad}
        together.add(frozenset(block for name in trained for block in gradients.adapted.blocks[name]))
        if step % 20 == 0:
            gradients.backward(TEXT[:2])
        course.advance()
        assert len(course._optimizer.state) == (len(trained) if step % 20 < 9 else 0)
    assert together == {frozenset({number}) for number in (0, 1, 3)}


def ticking(seconds: float) -> Callable[[], float]:
    """A clock that is so much later each time it is asked."""
    times: Iterator[int] = count()
    return lambda: seconds * next(times)


def test_minutes_bound_the_steps(decoder: Decoder, plan: Plan) -> None:
    """With this clock a step takes a second or two, as does a measurement."""
    training = Training.within(0.5, "lora")
    found = recover(decoder, plan, TEXT, training, clock=ticking(1.0))
    assert 5 <= found.curve[-1][0] <= 30
    assert found.plan.document.steps[-1].settings["minutes"] == 0.5
    late = recover(decoder, plan, TEXT, replace(training, minutes=0.01), clock=ticking(1.0))
    assert late.curve[-1][0] == 1
