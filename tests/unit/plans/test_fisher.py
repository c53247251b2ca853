"""Predicted losses against brute force: sampled gradients one token at a time, and the truncation itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.plans.low_rank.truncation import decompose, weighted_pair
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.solver.fisher import Moments, curve, fisher_moments, output_roots, predicted_losses
from foldrank.plans.solver.original import sites

MakeModel = Callable[..., Any]
ROLES = ("o",)


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6)])
def test_the_curve_is_half_the_two_sided_loss_of_the_best_truncation(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x, g, w = rng.normal(size=(40, shape[0])), rng.normal(size=(40, shape[1])), rng.normal(size=shape)
    gram, fisher = x.T @ x, g.T @ g
    found = curve(torch.from_numpy(w), Metric(torch.from_numpy(gram / 40)), Metric(torch.from_numpy(fisher / 40)))
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
    found = fisher_moments(Decoder.of(model), ids, seed=5)[1].outputs[("down",)]
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


def test_small_cuts_cost_what_is_predicted_within_a_factor(make_model: MakeModel) -> None:
    """K-FAC is a second-order estimate that takes inputs and gradients as independent: the order of magnitude holds."""
    decoder = Decoder.of(make_model(2))
    ids = np.random.default_rng(6).integers(0, 61, size=(24, 24))
    predicted = predicted_losses(decoder.blocks[0], fisher_moments(decoder, ids, 0)[0], ids.size)[("down",)]
    assert np.all(np.diff(predicted) <= 1e-12)
    assert predicted[-1] == 0.0
    few = fisher_moments(decoder, ids[:2], 0)
    assert set(predicted_losses(decoder.blocks[1], few[1], ids[:2].size)) == set(sites(decoder.blocks[1], "joint"))
    rank = int(np.argmax(predicted < 0.02))
    block = decoder.blocks[0]
    moments = fisher_moments(decoder, ids, 0)[0]

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
