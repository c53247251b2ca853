"""How much tokens count when a weight is rounded: against attention and Grams written out in float64 numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_families import TINY, random_model

from foldrank.plans.bits import inputs, tokens
from foldrank.plans.method import Task
from foldrank.plans.methods import quantize
from foldrank.plans.models.decoder import Decoder

MakeModel = Callable[..., Any]


def attention(decoder: Decoder, hidden: np.ndarray, number: int) -> np.ndarray:
    """Probabilities [N, H, T, T] of a Llama's block, by hand: norm, rotary halves, groups of heads, causal softmax."""
    config, block = decoder.model.config, decoder.blocks[number]
    heads, groups, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    gain = block.tensors["input_layernorm.weight"].numpy().astype(np.float64)
    normed = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + config.rms_norm_eps) * gain
    length = hidden.shape[1]
    theta = config.rope_parameters["rope_theta"] if hasattr(config, "rope_parameters") else config.rope_theta
    angles = np.arange(length)[:, None] / theta ** (np.arange(0, size, 2) / size)
    cos, sin = (np.tile(f(angles), 2) for f in (np.cos, np.sin))

    def turned(role: str, count: int) -> np.ndarray:
        states = (normed @ block.weight(role).numpy().astype(np.float64)).reshape(*hidden.shape[:2], count, size)
        states = states.transpose(0, 2, 1, 3)
        halves = np.concatenate([-states[..., size // 2:], states[..., : size // 2]], axis=-1)
        return states * cos + halves * sin

    query, key = turned("q", heads), turned("k", groups).repeat(heads // groups, axis=1)
    scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(size)
    scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
    likely = np.exp(scores - scores.max(-1, keepdims=True))
    return likely / likely.sum(-1, keepdims=True)


def test_grams_are_weighed_by_the_attention_that_tokens_get(
    make_model: MakeModel, ids: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "BATCH_TOKENS", 48)
    decoder = Decoder.of(make_model(2))
    hidden = decoder.embed(ids)
    stages, block = inputs.Stages(decoder, hidden), decoder.blocks[0]
    got = attention(decoder, hidden.numpy().astype(np.float64), 0).sum(axis=(1, 2))
    low, high = got.min(1, keepdims=True), got.max(1, keepdims=True)
    share = tokens.LEAST + (1 - tokens.LEAST) * (got - low) / (high - low)
    wanted = share / share.mean(1, keepdims=True)
    found = [*stages.weights(block)]
    np.testing.assert_allclose(torch.cat(found).numpy(), wanted.ravel(), rtol=1e-4)
    given = [*stages.inputs(block, "q")]
    rows = torch.cat(given).numpy().astype(np.float64)
    off = np.random.default_rng(0).standard_normal(rows.shape)
    parts = torch.from_numpy(rows + off).float().split([len(part) for part in given])
    gram, drift = inputs.sums(iter(given), parts, found)
    assert drift is not None
    np.testing.assert_allclose(gram.numpy(), (rows * wanted.reshape(-1, 1)).T @ rows, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(drift.numpy(), (rows * wanted.reshape(-1, 1)).T @ off, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "gptneox", "opt", "falcon", "gemma2"])
def test_every_family_says_what_its_tokens_get(family: str, ids: np.ndarray) -> None:
    """A row of probabilities sums to 1: all that tokens get is the heads times the tokens that look."""
    decoder = Decoder.of(random_model(TINY[family], seed=0))
    with torch.no_grad(), pytest.raises(tokens.Attended), tokens.Watch() as seen:
        decoder.run(decoder.blocks[1], decoder.embed(ids))
    heads = decoder.model.config.num_attention_heads
    sums = seen.received.sum(dim=1)
    torch.testing.assert_close(sums, torch.full_like(sums, heads * ids.shape[1]), rtol=1e-4, atol=0)
    assert float(seen.received[:, 0].min()) > float(seen.received[:, -1].max()), "the last is seen by itself alone"


def test_windows_in_which_all_tokens_get_the_same_count_alike(make_model: MakeModel, ids: np.ndarray) -> None:
    assert torch.equal(tokens.weights(torch.full((2, 5), 3.0)), torch.ones(2, 5))
    decoder = Decoder.of(make_model(2))
    block = replace(decoder.blocks[0], dropped=frozenset({"attention"}))
    assert all(torch.equal(part, torch.ones(len(part))) for part in
               inputs.Stages(decoder, decoder.embed(ids)).weights(block))


def test_the_setting_changes_the_numbers_and_nothing_else(make_model: MakeModel, ids: np.ndarray) -> None:
    decoder = Decoder.of(make_model(2))
    task = Task(decoder, ids, 0, source=decoder)
    one, other = (quantize.run(task, quantize.Settings(block_size=16, head_bits=None, embedding_bits=None, tokens=name))
                  for name in ("uniform", "attention"))
    assert one.edits == other.edits
    assert any(not np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)
