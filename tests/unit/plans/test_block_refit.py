"""Refits of whole blocks: what is taken over from a like one, against a fit from nothing; Grams against float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny_families
import torch
from tiny_families import TINY

from foldrank.plans.low_rank.grams import cross_gram, gram
from foldrank.plans.models.block import Block, watch_inputs
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.solver import block_refit
from foldrank.plans.solver.block_refit import refit
from foldrank.plans.solver.fisher import output_roots
from foldrank.plans.solver.layout import Packed, Roles, Span
from foldrank.plans.solver.moments import fisher_moments
from foldrank.plans.solver.original import Original, bias, sites
from foldrank.plans.width.channels import Order


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("packed", ["joint", "split"])
def test_a_refit_that_takes_over_a_like_one_is_the_refit_from_nothing(
    make_model: Callable[..., Any], ids: np.ndarray, packed: Packed, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Decoder.of(make_model(3, architecture=architecture))
    roots = {block.number: output_roots(held) for block, held in fisher_moments(decoder, ids, 0, packed)}
    original = Original.of(decoder, ids, roots, packed)
    noise = torch.randn(original.states[1].shape, generator=torch.Generator().manual_seed(1))
    hidden = original.states[1] + 0.1 * noise
    held = sites(decoder.blocks[1], packed)
    start = Span(1, 1, 1, dict.fromkeys(held[::2], 9))
    before = refit(original, start, hidden)
    fits: list[Roles] = []
    fit = block_refit._Task._fit
    monkeypatch.setattr(block_refit._Task, "_fit", lambda self, *a: (fits.append(a[0]), fit(self, *a))[1])
    for position, roles in enumerate(held):
        for rank in (5, None):
            ranks = {**start.ranks, roles: rank} if rank else {k: v for k, v in start.ranks.items() if k != roles}
            span = replace(start, ranks=ranks)
            alone = refit(original, span, hidden)
            fits.clear()
            found = refit(original, span, hidden, like=(start, before))
            assert not set(fits) & set(held[:position]), "what stands below is not fit again"
            assert (roles in fits) == (span != start)
            torch.testing.assert_close(found.output, alone.output, rtol=0, atol=0)
            assert found.pairs.keys() == alone.pairs.keys()
            for role in decoder.blocks[1].roles:
                torch.testing.assert_close(found.block.weight(role), alone.block.weight(role), rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_block_without_a_branch_or_some_channels_is_taken_over_like_any_other(
    make_model: Callable[..., Any], ids: np.ndarray, architecture: str
) -> None:
    decoder = Decoder.of(make_model(3, architecture=architecture))
    orders = {1: Order(torch.arange(72), (72, 40, 24), (0.0, 1.0, 2.0))}
    original = Original.of(decoder, ids, orders=orders)
    hidden, span = original.states[1], Span(1, 1, 1)
    spans = [span, span.narrow(40), span.narrow(24), span.without("mlp"), span.without("attention"),
             span.without("attention").narrow(24), span.narrow(24).with_ranks({("o",): 5})]
    fitted = {str(made): refit(original, made, hidden) for made in spans}
    for before in spans:
        for made in spans:
            found, wanted = refit(original, made, hidden, like=(before, fitted[str(before)])), fitted[str(made)]
            exact = 1e-5 if before.untouched else 0.0  # a fit gives those weights but for rounding
            torch.testing.assert_close(found.output, wanted.output, rtol=0, atol=exact)
            assert {role: found.block.weight(role).shape for role in found.block.roles} == {
                role: wanted.block.weight(role).shape for role in wanted.block.roles}


def test_what_is_left_makes_up_for_what_left(make_model: Callable[..., Any], ids: np.ndarray) -> None:
    """Against weights as they were: with every channel a copy of another, half of them do all of it; and an attention
    alone does better once it is fit to the whole block's output."""
    model = make_model(3)
    mlp = model.model.layers[1].mlp
    for linear in (mlp.gate_proj, mlp.up_proj):
        linear.weight[36:] = linear.weight[:36]
    decoder = Decoder.of(model)
    original = Original.of(decoder, ids, orders={1: Order(torch.arange(72), (72, 36), (0.0, 1.0))})
    hidden, wanted = original.states[1], original.states[2]

    def error(output: torch.Tensor) -> float:
        return float((output - wanted).norm() / (wanted - hidden).norm())

    assert error(refit(original, Span(1, 1, 1).narrow(36), hidden, prior=1e-3).output) < 1e-4
    alone = decoder.run(decoder.blocks[1].without("mlp"), hidden)
    assert error(refit(original, Span(1, 1, 1).without("mlp"), hidden, prior=1.0).output) < 0.9 * error(alone)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2", "gptneox"])
@pytest.mark.parametrize("gone", [None, "mlp", "attention", "folded", "narrow"])
def test_a_refit_is_the_least_squares_solution(ids: np.ndarray, architecture: str, gone: str | None) -> None:
    """Against float64 numpy, site by site from what each reads in both models: X^T (X' W + D) by its parts."""
    decoder = Decoder.of(tiny_families.random_model(TINY[architecture]))
    channels = len(decoder.blocks[1].weight("down"))
    original = Original.of(decoder, ids, orders={1: Order(torch.arange(channels), (channels, 40), (0.0, 1.0))})
    noise = torch.randn(original.states[1].shape, generator=torch.Generator().manual_seed(1))
    hidden = original.states[1] + 0.1 * noise
    span = {None: Span(1, 1, 1), "folded": Span(1, 2, 1), "narrow": Span(1, 1, 1).narrow(40)}.get(gone) or Span(
        1, 1, 1).without(gone)
    source, made = decoder.blocks[1], refit(original, span, hidden).block
    had, has = _read(decoder, source, original.states[1]), _read(decoder, made, hidden)
    before, after, wanted = (_rows(original.states[place]) for place in (1, 2, span.high + 1))
    old = {role: source.weight(role).double().numpy() for role in source.roles}
    new = {role: made.weight(role).double().numpy() for role in made.roles}
    start = {role: old[role][:40] if role == "down" and gone == "narrow" else old[role][:, : new[role].shape[1]]
             for role in new}
    behind = before - _rows(hidden)
    given = {role: had[role] @ old[role] + np.asarray(bias(source, role)) for role in ("o", "down")}
    written = given["o"] - (has["o"] @ new["o"] + np.asarray(bias(source, "o")) if "o" in new else 0)
    late = {"o": behind + (wanted - after + given["down"] if gone == "mlp" else 0),
            "down": behind + written + wanted - after}
    for role in new:
        gram = has[role].T @ has[role]
        pull = block_refit.PRIOR / len(has[role]) * gram.diagonal().mean()
        goal = has[role].T @ (had[role] @ (old[role] if role == "down" else start[role])) + pull * start[role]
        if role in late and architecture != "gemma2":  # gemma2 has norms behind its branches
            goal += has[role].T @ late[role]
        fit = np.linalg.solve(gram + pull * np.eye(len(gram)), goal)
        np.testing.assert_allclose(new[role], fit, rtol=0, atol=2e-5 * np.abs(fit).max(), err_msg=role)


def _rows(hidden: torch.Tensor) -> np.ndarray:
    return hidden.flatten(0, 1).double().numpy()


def _read(decoder: Decoder, block: Block, hidden: torch.Tensor) -> dict[str, np.ndarray]:
    seen: dict[str, np.ndarray] = {}
    with torch.no_grad(), watch_inputs(block, lambda role, read: seen.__setitem__(role, _rows(read)), block.roles):
        decoder.run_whole(block, hidden)
    return seen


def test_nothing_is_taken_over_from_a_block_of_other_source(make_model: Callable[..., Any], ids: np.ndarray) -> None:
    decoder = Decoder.of(make_model(3))
    original = Original.of(decoder, ids)
    alone, folded = Span(1, 1, 1), Span(1, 2, 2)
    like = (alone, refit(original, alone, original.states[1]))
    found, wanted = refit(original, folded, original.states[1], like=like), refit(original, folded, original.states[1])
    torch.testing.assert_close(found.output, wanted.output, rtol=0, atol=0)


@pytest.mark.parametrize("tokens", [1, 1023, 1024, 5000])
def test_cross_grams_are_those_of_float64(tokens: int) -> None:
    random = np.random.default_rng(0)
    one = (random.standard_normal((tokens, 30)) * np.logspace(-3, 3, 30)).astype(np.float32)
    other = random.standard_normal((tokens, 20)).astype(np.float32)
    found = cross_gram(torch.from_numpy(one), torch.from_numpy(other))
    wanted = one.astype(np.float64).T @ other.astype(np.float64)
    sizes = np.outer(np.linalg.norm(one.astype(np.float64), axis=0), np.linalg.norm(other.astype(np.float64), axis=0))
    assert found.dtype == torch.float64
    assert (np.abs(found.numpy() - wanted) / sizes).max() < 1e-6


@pytest.mark.parametrize("width", [1, 128, 129, 300, 1100])
def test_a_gram_is_a_product_of_all_columns_with_all(width: int) -> None:
    """Its own tiles, mirrored: no column is missed, none counted twice."""
    rows = np.random.default_rng(width).standard_normal((1100, width)).astype(np.float32)
    wide = rows.astype(np.float64)
    found, exact = cross_gram(*[torch.from_numpy(rows)] * 2), gram(torch.from_numpy(rows)[None])
    np.testing.assert_allclose(found, wide.T @ wide, rtol=0, atol=1e-3)
    np.testing.assert_allclose(exact, wide.T @ wide, rtol=0, atol=1e-9)
    assert torch.equal(found, found.T)
