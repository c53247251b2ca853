"""slm:rule=learned: coefficients by distillation find what is known to be best, and never lose to their start."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.plans.depth import learning
from foldrank.plans.depth.learning import learned
from foldrank.plans.method import Result, Task
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.request import parse

MakeModel = Callable[..., Any]
INPUT_OF = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "o_proj": "o", "gate_proj": "gate_up",
            "up_proj": "gate_up", "down_proj": "down"}


def planned(model: Any, ids: np.ndarray, text: str) -> Result:
    request, decoder = parse(text), Decoder.of(model)
    return request.method.run(Task(decoder, ids, 0, source=decoder), request.settings)


def folded(model: Any, fold: FoldBlocks) -> Any:
    """A copy whose block `into` is the combination, and that has no block of those that leave."""
    changed = copy.deepcopy(model)
    layers = changed.model.layers
    with torch.no_grad():
        for name, weight in layers[fold.into].named_parameters():
            if "layernorm" not in name:
                shares = fold.by_input[INPUT_OF[name.split(".")[-2]]]  # type: ignore[index]
                weight.copy_(sum(c * model.model.layers[b].get_parameter(name) for b, c in shares.items()))
    changed.model.layers = torch.nn.ModuleList(
        layer for number, layer in enumerate(layers) if number not in fold.leaving)
    return changed


def divergence(dense: Any, other: Any, ids: np.ndarray) -> float:
    with torch.no_grad():
        first, second = (torch.log_softmax(model(torch.from_numpy(ids), use_cache=False).logits.double(), -1)
                         for model in (dense, other))
    return float((first.exp() * (first - second)).sum(-1).mean())


def test_a_block_that_adds_nothing_hands_over_to_the_one_that_does(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(4)
    idle = model.model.layers[2]
    torch.nn.init.zeros_(idle.self_attn.o_proj.weight)
    torch.nn.init.zeros_(idle.mlp.down_proj.weight)
    start = FoldBlocks(1, (1, 2), {1: 0.0, 2: 1.0})
    told = learned(Decoder.of(model), [start], ids)
    assert told.curve[-1][1] < 0.1 * told.curve[0][1]
    (fold,) = told.folds
    assert min(fold.by_input["qkv"][1], fold.by_input["gate_up"][1]) > 0.8
    assert (fold.into, fold.blocks, fold.coefficients, fold.norms) == (1, (1, 2), start.coefficients, "bottom")


def test_what_is_told_is_the_divergence_on_the_windows_held_back(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "STEPS", 24)
    model, ids = make_model(4), np.random.default_rng(4).integers(0, 61, size=(60, 24))
    top, found = (planned(model, ids, f"slm:blocks=3,windows=6,tokens=24,rule={rule}") for rule in ("top", "learned"))
    (before,), (after,) = top.edits, found.edits
    assert before.blocks == after.blocks  # type: ignore[attr-defined]
    back = ids[-round(learning.BACK * len(ids)) :]
    assert found.predicted["slm.kl_after"] == pytest.approx(divergence(model, folded(model, after), back), rel=1e-3)
    assert found.predicted["slm.kl_after"] < found.predicted["slm.kl_before"]
    logits = found.decoder.logits(found.decoder.forward(ids))
    torch.testing.assert_close(logits, folded(model, after)(torch.from_numpy(ids), use_cache=False).logits,
                               rtol=0, atol=1e-3)


def test_the_start_wins_where_training_finds_nothing_better(
    make_model: MakeModel, ids: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "RATE", 50.0)
    monkeypatch.setattr(learning, "STEPS", 8)
    start = FoldBlocks(1, (1, 2), {1: 0.5, 2: 0.5})
    told = learned(Decoder.of(make_model(4)), [start], ids)
    assert min(told.curve, key=lambda point: point[1])[0] == 0
    assert all(shares == {1: 0.5, 2: 0.5} for shares in told.folds[0].by_input.values())
