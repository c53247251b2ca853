"""Fits to the compressed model's inputs, against least squares and reduced-rank regression in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.edits.low_rank import LowRank
from foldrank.plans.low_rank.refit import Fit, Moments, fit
from foldrank.plans.low_rank.truncation import truncations
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Result, Task
from foldrank.plans.methods.dipsvd import Settings, run
from foldrank.plans.models.block import Pair
from foldrank.plans.models.decoder import Decoder

MakeModel = Callable[..., Any]
PATHS = {"q": "self_attn.q_proj", "o": "self_attn.o_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}


def drawn(shape: tuple[int, int], seed: int = 0, tokens: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x and z [tokens, in], z an erring x; W [in, out]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, shape[0])) @ rng.normal(size=(shape[0], shape[0]))
    return x, x + 0.7 * rng.normal(size=x.shape) + 0.3 * x[:, ::-1], rng.normal(size=shape)


def made(x: np.ndarray, z: np.ndarray, w: np.ndarray, rank: int, how: Fit) -> tuple[np.ndarray, np.ndarray]:
    """A and B, float64."""
    start = truncations(torch.from_numpy(w), Metric(torch.from_numpy(x.T @ x))).pair(rank)
    pair = fit(torch.from_numpy(w), Moments(torch.from_numpy(z.T @ z), torch.from_numpy(z.T @ x)), Pair(*start), how)
    return pair.a.double().numpy(), pair.b.double().numpy()


def best(z: np.ndarray, y: np.ndarray, rank: int) -> np.ndarray:
    """Reduced-rank regression: the W' of a rank that minimises |z W' - y|^2."""
    fitted = z @ np.linalg.lstsq(z, y, rcond=None)[0]
    u, s, v = np.linalg.svd(fitted, full_matrices=False)
    return np.linalg.lstsq(z, (u[:, :rank] * s[:rank]) @ v[:rank], rcond=None)[0]


@pytest.mark.parametrize("shape", [(9, 12), (12, 9)])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_feed_forward_is_reduced_rank_regression_on_what_partly_undoes_the_error(
    shape: tuple[int, int], beta: float
) -> None:
    x, z, w = drawn(shape)
    a, b = made(x, z, w, 3, Fit(sequential=True, beta=beta, refit=False))
    np.testing.assert_allclose(a @ b, best(z, (z + beta * (x - z)) @ w, 3), atol=1e-4)


@pytest.mark.parametrize("shape", [(9, 12), (12, 9)])
def test_refit_is_the_least_squares_solution_for_the_up_factor(shape: tuple[int, int]) -> None:
    x, z, w = drawn(shape)
    a, b = made(x, z, w, 3, Fit(sequential=False, beta=0.0, refit=True))
    start = truncations(torch.from_numpy(w), Metric(torch.from_numpy(x.T @ x))).pair(3)
    np.testing.assert_array_equal(a, start[0].double().numpy())
    np.testing.assert_allclose(b, np.linalg.lstsq(z @ a, x @ w, rcond=None)[0], atol=1e-4)
    before = np.linalg.norm(z @ a @ start[1].double().numpy() - x @ w)
    assert np.linalg.norm(z @ a @ b - x @ w) < 0.99 * before


def test_without_error_nothing_changes() -> None:
    x, _, w = drawn((9, 12))
    plain = truncations(torch.from_numpy(w), Metric(torch.from_numpy(x.T @ x))).pair(3)
    for how in (Fit(True, 0.0, False), Fit(True, 1.0, True), Fit(False, 0.0, True)):
        a, b = made(x, x, w, 3, how)
        np.testing.assert_allclose(a @ b, (plain[0] @ plain[1]).numpy(), atol=1e-4)


def test_fewer_tokens_than_channels_and_a_silent_channel_give_finite_pairs() -> None:
    x, z, w = drawn((9, 12), tokens=4)
    z[:, 2] = 0.0
    for how in (Fit(True, 1.0, False), Fit(True, 0.5, True), Fit(False, 0.0, True)):
        assert all(np.isfinite(part).all() for part in made(x, z, w, 3, how))


def planned(model: Any, ids: np.ndarray, **options: Any) -> Result:
    decoder = Decoder.of(model)
    return run(Task(decoder, ids, 0, source=decoder), Settings(keep=0.5, align=1, packed="split", **options))


def inputs(decoder: Decoder, ids: np.ndarray, number: int, role: str) -> np.ndarray:
    seen: list[np.ndarray] = []
    module = decoder.blocks[number].module.get_submodule(PATHS[role])
    handle = module.register_forward_pre_hook(lambda _m, a: seen.append(a[0].flatten(0, 1).double().numpy()))
    decoder.forward(ids)
    handle.remove()
    return np.concatenate(seen)


@pytest.mark.parametrize("role", ["q", "o", "up", "down"])
def test_refit_sees_the_inputs_that_the_compressed_model_gives(
    make_model: MakeModel, ids: np.ndarray, role: str
) -> None:
    model = make_model(3)
    result, dense = planned(model, ids, refit=True), Decoder.of(model)
    edit = next(e for e in result.edits if isinstance(e, LowRank) and str(e.site) == f"block.01.{role}")
    a, b = (result.arrays[name].astype(np.float64) for name in edit.factors)
    z, x = inputs(result.decoder, ids, 1, role), inputs(dense, ids, 1, role)
    wanted = np.linalg.lstsq(z @ a, x @ dense.blocks[1].weight(role).double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(b, wanted, atol=1e-3 * np.abs(wanted).max())
    assert np.linalg.norm(z - x) > 0.05 * np.linalg.norm(x)


@pytest.mark.parametrize("role", ["q", "o", "up", "down"])
def test_sequential_truncates_under_the_compressed_models_inputs(
    make_model: MakeModel, ids: np.ndarray, role: str
) -> None:
    model = make_model(3)
    result, dense = planned(model, ids, inputs="sequential"), Decoder.of(model)
    edit = next(e for e in result.edits if isinstance(e, LowRank) and str(e.site) == f"block.01.{role}")
    a, b = (result.arrays[name].astype(np.float64) for name in edit.factors)
    z, w = inputs(result.decoder, ids, 1, role), dense.blocks[1].weight(role).double().numpy()
    lost = np.linalg.norm(z @ (w - a @ b)) ** 2
    assert lost == pytest.approx((np.linalg.svd(z @ w, compute_uv=False)[edit.rank :] ** 2).sum(), rel=1e-3)


def test_error_is_fed_forward_only_from_sequential_inputs() -> None:
    with pytest.raises(ValueError, match="feed_forward needs inputs=sequential"):
        Settings(keep=0.5, feed_forward=0.5)
