"""How far an export may be from PyTorch: a fixed limit, or the model's own rounding where it magnifies that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from foldrank.verbs.own_noise import own_limit
from foldrank.verbs.torch_logits import logits_of
from tests.tiny_families import TINY

IDS = np.random.default_rng(0).integers(0, 260, (2, 64))


def _model(family: str, dtype: torch.dtype = torch.float64) -> Any:
    tiny = TINY[family]
    torch.manual_seed(1)
    config = getattr(transformers, tiny.config)(**tiny.options, attn_implementation="eager")
    model = getattr(transformers, tiny.architecture)(config)
    for path, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5 if path.endswith("weight") else -0.5, 1.5)
    return model.to(dtype).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def gemma() -> Any:
    return _model("gemma")


def test_a_model_that_magnifies_rounding_may_be_as_far_off_as_pytorch_itself(gemma: Any) -> None:
    """Its genai export is 2.8e-5 off."""
    assert 4e-5 < own_limit(2.8e-5, 1e-5, gemma, [IDS]) <= 1e-4
    assert next(gemma.parameters()).dtype == torch.float64  # the reference is as it was


def test_a_fault_of_one_percent_in_it_is_far_beyond_that_limit(gemma: Any) -> None:
    """It magnifies faults as it does rounding: attention scores of one block a hundredth too large."""
    sound = logits_of(gemma)(IDS)
    attention = gemma.model.layers[3].self_attn
    before, attention.scaling = attention.scaling, attention.scaling * 1.01
    found = logits_of(gemma)(IDS)
    attention.scaling = before
    error = float(np.abs(found - sound).max() / np.abs(sound).max())
    assert error > 10 * 1e-4
    assert own_limit(error, 1e-5, gemma, [IDS]) == 1e-5


def test_a_model_that_does_not_is_held_closer() -> None:
    assert own_limit(5e-5, 1e-5, _model("gpt2"), [IDS]) == 1e-5
    assert own_limit(9e-6, 1e-5, object(), [IDS]) == 1e-5  # nothing is asked of it
