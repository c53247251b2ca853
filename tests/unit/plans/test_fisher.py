"""Predicted losses against brute force: sampled gradients one token at a time, and the truncation itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.plans.low_rank.truncation import decompose, weighted_pair
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.solver import moments as held
from foldrank.plans.solver.fisher import curve, output_roots, predicted_losses
from foldrank.plans.solver.moments import Moments, fisher_moments
from foldrank.plans.solver.original import sites

MakeModel = Callable[..., Any]
ROLES = ("o",)


def by_number(found: Iterable[tuple[Block, Moments]]) -> dict[int, Moments]:
    """Of all blocks at once."""
    return {block.number: moments for block, moments in found}


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6)])
def test_the_curve_is_half_the_two_sided_loss_of_the_best_truncation(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x, g, w = rng.normal(size=(40, shape[0])), rng.normal(size=(40, shape[1])), rng.normal(size=shape)
    gram, fisher = x.T @ x, g.T @ g
    found = curve(torch.from_numpy(w), Metric(torch.from_numpy(gram / 40)), torch.from_numpy(fisher / 40))
    left, right = np.linalg.cholesky(gram / 40), np.linalg.cholesky(fisher / 40)
    u, s, v = np.linalg.svd(left.T @ w @ right)
    for rank in range(min(shape) + 1):
        best = np.linalg.solve(left.T, (u[:, :rank] * s[:rank]) @ v[:rank]) @ np.linalg.inv(right)
        change = w - best
        exact = 0.5 * np.mean([(xi @ change @ gj) ** 2 for xi in x for gj in g])  # x and g independent, term by term
        assert found[rank] == pytest.approx(exact, rel=1e-6, abs=1e-9 * found[0])


def test_output_moments_are_those_of_gradients_taken_alone(make_model: MakeModel) -> None:
    model = make_model(2)
    ids = np.random.default_rng(4).integers(0, 61, size=(1, 8))
    found = by_number(fisher_moments(Decoder.of(model), ids, seed=5))[1].outputs[("down",)]
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids), use_cache=False).logits[0]
    drawn = torch.multinomial(logits.softmax(-1), 1, generator=torch.Generator().manual_seed(5))
    moved = torch.zeros(1, 8, 42, requires_grad=True)
    handle = model.model.layers[1].mlp.down_proj.register_forward_hook(lambda _m, _a, out: out + moved)
    with torch.enable_grad():
        logs = model(input_ids=torch.from_numpy(ids), use_cache=False).logits[0].log_softmax(-1)
        (slopes,) = torch.autograd.grad(-logs.gather(-1, drawn).sum(), moved)
    handle.remove()
    wanted = slopes[0].double().T @ slopes[0].double()
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))


def test_blocks_one_by_one_give_what_all_at_once_give(make_model: MakeModel) -> None:
    """Memory for one block's sums: a backward pass for each, the same labels."""
    decoder, ids = Decoder.of(make_model(3)), np.random.default_rng(4).integers(0, 61, size=(70, 16))
    whole, single = (by_number(fisher_moments(decoder, ids, 5, "split", limit=limit)) for limit in (1 << 30, 1))
    assert list(whole) == list(single) == [0, 1, 2]
    for number, moments in whole.items():
        for kind in ("inputs", "outputs"):
            for roles, sums in getattr(moments, kind).items():
                assert torch.allclose(getattr(single[number], kind)[roles], sums, rtol=1e-5, atol=1e-8)
        assert torch.allclose(single[number].stream, moments.stream, rtol=1e-5, atol=1e-8)


def test_of_sites_too_wide_only_the_diagonal_is_held(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A curve is then that of the diagonal matrix, and no root is there to weigh errors with."""
    decoder, ids = Decoder.of(make_model(2)), np.random.default_rng(4).integers(0, 61, size=(4, 16))
    whole = by_number(fisher_moments(decoder, ids, 5, "split"))[0]
    monkeypatch.setattr(held, "WIDEST", 30)
    found = by_number(fisher_moments(decoder, ids, 5, "split"))[0]
    wide = {roles for roles, sums in whole.outputs.items() if len(sums) > 30}
    assert wide
    assert set(output_roots(found)) == set(whole.outputs) - wide
    curves = predicted_losses(decoder.blocks[0], found, ids.size)
    for roles in wide:
        assert torch.allclose(found.outputs[roles], whole.outputs[roles].diagonal())
        spread = Moments(whole.inputs, {**whole.outputs, roles: whole.outputs[roles].diagonal().diag()})
        np.testing.assert_allclose(curves[roles], predicted_losses(decoder.blocks[0], spread, ids.size)[roles],
                                   rtol=1e-6, atol=1e-9)


def test_small_cuts_cost_what_is_predicted_within_a_factor(make_model: MakeModel) -> None:
    """K-FAC is a second-order estimate that takes inputs and gradients as independent: the order of magnitude holds."""
    decoder = Decoder.of(make_model(2))
    ids = np.random.default_rng(6).integers(0, 61, size=(24, 24))
    predicted = predicted_losses(decoder.blocks[0], by_number(fisher_moments(decoder, ids, 0))[0], ids.size)[("down",)]
    assert np.all(np.diff(predicted) <= 1e-12)
    assert predicted[-1] == 0.0
    few = by_number(fisher_moments(decoder, ids[:2], 0))
    assert set(predicted_losses(decoder.blocks[1], few[1], ids[:2].size)) == set(sites(decoder.blocks[1], "joint"))
    rank = int(np.argmax(predicted < 0.02))
    block = decoder.blocks[0]
    moments = by_number(fisher_moments(decoder, ids, 0))[0]

    root = Metric(moments.outputs[("down",)] / ids.size).root
    weight = block.weight("down").double() @ root
    basis, _ = decompose(weight, Metric(moments.inputs[("down",)] / ids.size))
    cut = (weight @ basis[:, :rank] @ basis[:, :rank].T @ torch.linalg.pinv(root)).float()
    changed = decoder.with_blocks([block.with_weights({"down": cut}), decoder.blocks[1]])
    from foldrank.plans.solver.meter import Meter

    measured = Meter.of(decoder, ids).loss(decoder.embed(ids), changed.blocks)
    assert predicted[rank] / 4 < measured < predicted[rank] * 4


def test_the_pair_is_the_best_under_both_metrics_and_its_loss_is_the_curve() -> None:
    rng = np.random.default_rng(2)
    x, g, w = rng.normal(size=(50, 9)), rng.normal(size=(60, 7)), rng.normal(size=(9, 7))
    gram, fisher = x.T @ x / 50, g.T @ g / 60
    root = torch.from_numpy(np.linalg.cholesky(fisher))
    left = np.linalg.cholesky(gram)
    u, s, v = np.linalg.svd(left.T @ w @ root.numpy())
    for rank in (1, 3, 7):
        a, b = (part.double().numpy() for part in weighted_pair(torch.from_numpy(w), Metric(torch.from_numpy(gram)),
                                                               root, rank))
        best = np.linalg.solve(left.T, (u[:, :rank] * s[:rank]) @ v[:rank]) @ np.linalg.inv(root.numpy())
        np.testing.assert_allclose(a @ b, best, atol=1e-5)
        np.testing.assert_allclose(b @ b.T, np.eye(rank), atol=1e-5)


def test_roots_give_back_the_moments_with_a_tenth_of_their_mean_on_the_diagonal() -> None:
    g = np.random.default_rng(3).normal(size=(4, 6))  # fewer tokens than outputs: singular without damping
    fisher = torch.from_numpy(g.T @ g)
    moments = Moments({}, {ROLES: fisher, ("q",): torch.zeros(3, 3, dtype=torch.float64)})
    root = output_roots(moments)[ROLES].double()
    np.testing.assert_allclose(root @ root.T, fisher + 0.1 * fisher.trace() / 6 * torch.eye(6), atol=1e-6)
    assert torch.isfinite(output_roots(moments)[("q",)]).all()
