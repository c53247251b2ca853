"""ALiBi is added to the scores once: planner, reference and transformers' SDPA against a forward pass in numpy.

transformers' eager form of Falcon adds it twice, to the mask and to the scores, and is no oracle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import worst

pytest.importorskip("torch")
import torch
from tiny_families import TINY, save
from transformers import AutoModelForCausalLM

from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.models.decoder import load_decoder
from foldrank.plans.reference import reference_model

HEADS = 4
IDS = np.random.default_rng(4).integers(3, 250, 24)
"""Few enough that slope times position is exact in bfloat16, which transformers rounds it to."""


def forward(weights: dict[str, np.ndarray], ids: np.ndarray, *, times: int = 1) -> np.ndarray:
    """Logits [T, V] of Falcon with ALiBi (arXiv 2108.12409): softmax((q k + slope j) / sqrt(d)), float64."""
    blocks = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("transformer.h."))
    x_TC = weights["transformer.word_embeddings.weight"][ids]
    for n in range(blocks):
        block = {name.removeprefix(f"transformer.h.{n}."): w for name, w in weights.items()}
        x_TC = x_TC + _linear(_attend(_normed(x_TC, block, "input_layernorm"), block, times), block,
                              "self_attention.dense")
        up = _linear(_normed(x_TC, block, "post_attention_layernorm"), block, "mlp.dense_h_to_4h")
        up = torch.nn.functional.gelu(torch.from_numpy(up)).numpy()
        x_TC = x_TC + _linear(up, block, "mlp.dense_4h_to_h")
    return _normed(x_TC, weights, "transformer.ln_f") @ weights["transformer.word_embeddings.weight"].T


def _attend(x_TC: np.ndarray, block: dict[str, np.ndarray], times: int) -> np.ndarray:
    count, width = x_TC.shape
    q_HTD, k_HTD, v_HTD = _linear(x_TC, block, "self_attention.query_key_value").reshape(
        count, HEADS, 3, width // HEADS).transpose(2, 1, 0, 3)
    slopes = 2.0 ** (-8 / HEADS * np.arange(1, HEADS + 1))
    scores = q_HTD @ k_HTD.transpose(0, 2, 1) + times * slopes[:, None, None] * np.arange(count)
    scores = np.where(np.tri(count, dtype=bool), scores / np.sqrt(width // HEADS), -np.inf)
    odds = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = odds / odds.sum(-1, keepdims=True) @ v_HTD
    return mixed.transpose(1, 0, 2).reshape(count, width)


def _linear(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _normed(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((centred ** 2).mean(-1, keepdims=True) + 1e-5)
    return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def test_distance_counts_once_with_a_mask_and_without(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(save(TINY["falcon-alibi"], tmp_path))
    network: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="sdpa")
    weights = {name: w.double().numpy() for name, w in network.state_dict().items()}
    wanted, tokens = forward(weights, IDS), torch.from_numpy(IDS)[None]
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.int64), tokens], dim=1)
    decoder, reference = load_decoder(checkpoint), reference_model(checkpoint, None)
    with torch.no_grad():
        found = {
            "planner": decoder.logits(decoder.forward(IDS[None])),
            "reference": reference(tokens).logits,
            "transformers": network(tokens).logits,
            "with a mask": network(tokens, attention_mask=torch.ones_like(tokens)).logits,
            "padded": network(padded, attention_mask=(torch.arange(29) >= 5).long()[None]).logits[:, 5:],
        }
    errors = {name: worst(logits[0].numpy(), wanted) for name, logits in found.items()}
    assert {name: error for name, error in errors.items() if error > 1e-5} == {}
    assert worst(forward(weights, IDS, times=2), wanted) > 0.05
