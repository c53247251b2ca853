"""Narrower MLPs: channels, refits and budgets against numpy in float64, and what methods make of a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.slice_mlp import SliceMlp
from foldrank.plans.method import Result, Task
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.request import parse
from foldrank.plans.simulate import apply_edits
from foldrank.plans.width.budget import Mlp, by_score, even_widths, least_widths, spare, spend
from foldrank.plans.width.channels import DAMPINGS, Moments, order, refit, steadiest

MakeModel = Callable[..., Any]


def drawn(seed: int, tokens: int = 200, channels: int = 24, outputs: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """x [tokens, channels], correlated and not centred, and W [channels, outputs]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, channels)) @ (np.eye(channels) + 0.5 * rng.normal(size=(channels, channels)))
    return x * rng.lognormal(size=channels) + rng.normal(size=channels), rng.normal(size=(channels, outputs))


def moments_of(x: np.ndarray, y: np.ndarray) -> Moments:
    parts = (x.T @ x / len(x), x.T @ y / len(x), x.mean(axis=0), y.mean(axis=0))
    return Moments(*map(torch.from_numpy, parts), tokens=len(x))


def error(x: np.ndarray, y: np.ndarray, kept: np.ndarray, down: np.ndarray, bias: Any = 0.0) -> float:
    return float(np.square(x[:, kept] @ down + bias - y).sum(axis=1).mean())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 24), st.booleans())
def test_a_refit_never_loses_more_on_its_text_than_none(seed: int, width: int, centred: bool) -> None:
    x, w = drawn(seed)
    y, raw = x @ w, moments_of(x, x @ w)
    moments = raw.centred() if centred else raw
    kept = order(moments, torch.from_numpy(w), 1, width).kept(width)
    down, rows = refit(moments, torch.from_numpy(w), kept).numpy(), kept.numpy()

    def bias(found: np.ndarray) -> Any:
        return y.mean(axis=0) - x.mean(axis=0)[rows] @ found if centred else 0.0

    rounding = 1e-12 * float(np.square(y).sum(axis=1).mean())
    assert error(x, y, rows, down, bias(down)) <= error(x, y, rows, w[rows], bias(w[rows])) + rounding


@pytest.mark.parametrize("step", [1, 4])
def test_channels_leave_by_least_squares_error_and_losses_are_those_errors(step: int) -> None:
    """Against least squares in numpy, channel by channel; next to no damping."""
    x, w = drawn(5)
    found = order(moments_of(x, x @ w), torch.from_numpy(w), step, damping=1e-9)

    def left(kept: np.ndarray) -> float:
        return error(x, x @ w, kept, np.linalg.lstsq(x[:, kept], x @ w, rcond=None)[0])

    assert sorted(found.channels.tolist()) == list(range(24))
    for width, loss in zip(found.widths[1:9], found.losses[1:9], strict=False):
        assert loss == pytest.approx(left(found.kept(width).numpy()), rel=1e-3)
    if step == 1:
        first = min(range(24), key=lambda j: left(np.delete(np.arange(24), j)))
        assert found.channels[-1] == first


def test_a_refit_goes_as_far_as_holds_on_other_text() -> None:
    """Little text asks for much damping, and text of another kind for no refit at all."""
    x, w = drawn(7, tokens=4000)
    kept, weight = torch.arange(0, 24, 2), torch.from_numpy(w)
    back = moments_of(x[2000:], x[2000:] @ w)
    few, many = (steadiest(moments_of(x[:n], x[:n] @ w), back, weight, kept) for n in (14, 2000))
    assert many == min(DAMPINGS) < few
    odd = moments_of(x[:30] * np.where(np.arange(24) % 2, -9.0, 1.0), x[:30] @ w)
    assert math.isinf(steadiest(odd, moments_of(np.eye(24), w), weight, kept))


def test_a_constant_channel_leaves_first_where_there_is_a_bias() -> None:
    x, w = drawn(2)
    x[:, 11] = 40.0
    raw = moments_of(x, x @ w)
    found = order(raw.centred(), torch.from_numpy(w), 1, 23)
    assert found.channels[-1] == 11
    assert found.losses[1] < 1e-6 * float(np.square(x @ w).sum(axis=1).mean())
    assert order(raw, torch.from_numpy(w), 1, 23).channels[-1] != 11


def test_widths_are_whole_steps_within_the_budget_and_go_where_loss_is() -> None:
    mlps = tuple(Mlp(block, 50, 3) for block in range(4))
    whole = 4 * 150 + 100
    even = even_widths(mlps, whole, 512, 8)
    assert even == {0: 32, 1: 32, 2: 40, 3: 32}  # 412 numbers: 34 channels each, and a step is left over
    least = least_widths(mlps, 8, 0.0)
    curves = {block: {width: float((50 - width) * block) for width in (*range(8, 49, 8), 50)} for block in range(4)}
    chosen = spend(mlps, least, spare(mlps, whole, 512, least), 8, curves)
    assert chosen == {0: 8, 1: 24, 2: 50, 3: 50}
    with pytest.raises(ValueError, match=r"leave 0\.28 of the blocks' weights at the least"):
        spare(mlps, whole, 100, least)


def test_scores_become_losses_of_what_does_not_stay() -> None:
    assert by_score([1.0, 5.0, 2.0, 0.5, 3.0], 2) == {5: 0.0, 4: 0.5, 2: 3.5}


def planned(model: Any, ids: np.ndarray, text: str) -> Result:
    request, decoder = parse(text), Decoder.of(model)
    return request.method.run(Task(decoder, ids, 0, source=decoder), request.settings)


@pytest.mark.parametrize("text", [
    "width:keep=0.8,align=8", "width:keep=0.8,align=8,allocate=uniform,toward=1", "flap:keep=0.8,align=8",
    "width:keep=0.8,align=8,inputs=original,refit=false,bias=true", "cfsp:keep=0.8,align=8",
])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_methods_keep_the_share_asked_in_whole_steps(
    make_model: MakeModel, ids: np.ndarray, text: str, architecture: str
) -> None:
    result = planned(make_model(4, architecture=architecture), ids, text)
    edits = [edit for edit in result.edits if isinstance(edit, SliceMlp)]
    assert edits
    assert {len(edit.channels) % 8 for edit in edits} == {0}
    assert 0.8 - 8 * 3 * 42 / Decoder.of(make_model(4)).site_parameters < result.kept <= 0.8
    assert result.arrays.keys() == {name for edit in edits for name in edit.arrays()}
    assert all(np.isfinite(array).all() for array in result.arrays.values())
    hidden = result.decoder.forward(ids)
    assert torch.isfinite(hidden).all()


def masked(model: Any, ids: np.ndarray, result: Result) -> float:
    """Mean squared distance of the last hidden state to the original's, with transformers' own modules masked."""
    def states(changed: Any) -> torch.Tensor:
        with torch.no_grad():
            return changed.model(torch.from_numpy(ids), use_cache=False).last_hidden_state.double()

    wanted = states(model)
    weights = [layer.mlp.down_proj.weight.data.clone() for layer in model.model.layers]
    for edit in result.edits:
        down, kept = model.model.layers[edit.block].mlp.down_proj.weight.data, list(edit.channels.numbers)
        rows = down.T[kept].clone() if edit.down is None else torch.from_numpy(result.arrays[edit.down])
        down.zero_()
        down.T[kept] = rows
    found = states(model)
    for layer, weight in zip(model.model.layers, weights, strict=True):
        layer.mlp.down_proj.weight.data = weight
    return float((found - wanted).square().mean())


def test_refits_help_and_the_planners_model_is_the_masked_one(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(4)
    lost = {}
    for text in ("inputs=original,refit=false", "inputs=original", "inputs=sequential,toward=1"):
        result = planned(model, ids, f"width:keep=0.8,align=8,allocate=uniform,{text}")
        lost[text] = masked(model, ids, result)
        with torch.no_grad():
            hidden = result.decoder.norm(result.decoder.forward(ids)).double()
            wanted = model.model(torch.from_numpy(ids), use_cache=False).last_hidden_state.double()
        assert float((hidden - wanted).square().mean()) == pytest.approx(lost[text], rel=1e-3)
    assert lost["inputs=original"] < 0.9 * lost["inputs=original,refit=false"]
    assert lost["inputs=sequential,toward=1"] < lost["inputs=original"]


def test_flap_cuts_what_fluctuates_least_and_hands_on_its_mean(make_model: MakeModel, ids: np.ndarray) -> None:
    model, seen = make_model(2), []
    down = model.model.layers[1].mlp.down_proj
    handle = down.register_forward_pre_hook(lambda _m, a: seen.append(a[0].flatten(0, 1).double().numpy()))
    with torch.no_grad():
        model(torch.from_numpy(ids), use_cache=False)
    handle.remove()
    x, w = seen[0], down.weight.double().numpy().T
    result = planned(model, ids, "flap:keep=0.8,align=1")
    edit = next(edit for edit in result.edits if edit.block == 1)
    score = x.var(axis=0) * np.square(w).sum(axis=1)
    cut = np.setdiff1d(np.arange(72), edit.channels.numbers)
    assert set(cut) == set(np.argsort(score)[: len(cut)])
    np.testing.assert_allclose(result.arrays[edit.bias], x.mean(axis=0)[cut] @ w[cut], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("text", "said"), [
    ("width:keep=0.85,inputs=original,toward=1", "toward needs inputs=sequential"),
    ("flap:keep=0.85,refit=true", "unknown setting refit"),
])
def test_settings_that_mean_nothing_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(text)


def test_a_budget_below_attention_is_refused(make_model: MakeModel, ids: np.ndarray) -> None:
    with pytest.raises(ValueError, match="of the blocks' weights at the least"):
        planned(make_model(2), ids, "width:keep=0.2")


@pytest.mark.parametrize("name", ["width", "flap", "cfsp"])
def test_blocks_that_lost_a_branch_are_passed_or_cut(make_model: MakeModel, ids: np.ndarray, name: str) -> None:
    source = Decoder.of(make_model(4))
    left = apply_edits([DropBranch(1, "mlp"), DropBranch(2, "attention")], source, {})
    request = parse(f"{name}:keep=0.7,align=8")
    result = request.method.run(Task(left, ids, 0, source=source), request.settings)
    blocks = {edit.block for edit in result.edits}
    assert 1 not in blocks
    assert blocks
    assert result.kept <= 0.7
    assert result.decoder.site_parameters == pytest.approx(result.kept * left.site_parameters)
