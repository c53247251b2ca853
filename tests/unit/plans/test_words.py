"""What is kept of a model's words: KL of all of them where they fit, a little less where they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foldrank.plans.models.words import Words


def whole(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL in nats over the last axis, float64."""
    def logs(logits: np.ndarray) -> np.ndarray:
        centred = logits.astype(np.float64) - logits.max(-1, keepdims=True)
        return centred - np.log(np.exp(centred).sum(-1, keepdims=True))

    p, q = logs(one), logs(other)
    return np.asarray((np.exp(p) * (p - q)).sum(-1))


def logits(seed: int, spread: float = 3.0) -> np.ndarray:
    return (spread * np.random.default_rng(seed).standard_normal((2, 5, 300))).astype(np.float32)


@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("kept", [300, 299, 40, 1])
def test_it_is_no_more_than_the_whole_and_the_whole_where_all_words_are_kept(kept: int, spread: float) -> None:
    one, near = logits(0, spread), logits(0, spread) + 0.1 * logits(1, 1.0)
    found = Words.of(torch.from_numpy(one), kept).divergence(torch.from_numpy(near)).numpy()
    wanted = whole(one, near)
    rounding = 1e-6 * max(1.0, spread)  # of logits in float32
    assert (found <= wanted + rounding).all()
    assert (found >= -rounding).all()
    if kept >= 299:
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=rounding)


def test_what_the_rest_divides_among_itself_is_what_is_lost() -> None:
    """Against KL over the kept words and one more that has all others' share, in float64."""
    one, other, kept = logits(2), logits(3), 20
    def merged(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
        shares = np.exp(values.astype(np.float64))
        shares /= shares.sum(-1, keepdims=True)
        held = np.take_along_axis(shares, ids, -1)
        return np.log(np.concatenate([held, 1 - held.sum(-1, keepdims=True)], -1))

    ids = np.argsort(-one, axis=-1)[..., :kept]
    found = Words.of(torch.from_numpy(one), kept).divergence(torch.from_numpy(other)).numpy()
    np.testing.assert_allclose(found, whole(merged(one, ids), merged(other, ids)), rtol=1e-4)


def test_windows_part_and_join() -> None:
    words = Words.of(torch.from_numpy(logits(4)), 10)
    again = Words.joined([words[:1], words[1:].copied()])
    other = torch.from_numpy(logits(5))
    assert len(again) == 2
    assert torch.equal(words.divergence(other), again.divergence(other))
    assert words.numbers == 2 * 2 * 5 * 10


def test_it_is_least_at_itself_and_its_slope_there_is_nothing() -> None:
    one = torch.from_numpy(logits(6)).requires_grad_()
    Words.of(one.detach(), 50).divergence(one).sum().backward()
    assert one.grad is not None
    assert float(one.grad.abs().max()) < 1e-5
