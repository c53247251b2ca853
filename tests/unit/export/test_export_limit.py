"""How far an export may be from PyTorch: a fixed limit, or the model's own rounding where it magnifies that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from foldrank.runtime.proof import Criterion
from foldrank.verbs.export_limit import limit_for, rounding
from foldrank.verbs.export_proof import _sides
from foldrank.verbs.reference import logits_of
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
    own = rounding(gemma, [IDS])
    assert own > 1e-5
    limit = limit_for(Criterion("fp32"), gemma, [IDS], 2.8e-5)
    assert limit == pytest.approx(min(1e-4, 4 * own))
    assert next(gemma.parameters()).dtype == torch.float64  # the reference is as it was


def test_a_fault_of_one_percent_in_it_is_far_beyond_that_limit(gemma: Any) -> None:
    """It magnifies faults as it does rounding: attention scores of one block a hundredth too large."""
    sound = logits_of(gemma)(IDS)
    attention = gemma.model.layers[3].self_attn
    before, attention.scaling = attention.scaling, attention.scaling * 1.01
    found = logits_of(gemma)(IDS)
    attention.scaling = before
    error = float(np.abs(found - sound).max() / np.abs(sound).max())
    assert error > 10 * limit_for(Criterion("fp32"), gemma, [IDS], error)


def test_elsewhere_the_limit_is_fixed() -> None:
    llama = _model("llama", torch.float32)
    assert limit_for(Criterion("fp32"), llama, [IDS], 1.0) == 1e-5  # nothing tells its rounding
    assert limit_for(Criterion("fp32"), object(), [IDS], 9e-6) == 1e-5  # nothing needs to
    assert limit_for(Criterion("fp16"), object(), [IDS], 1.0) == 5e-4


def test_rows_are_tried_on_either_side_where_positions_are_told() -> None:
    assert (_sides(None), _sides("right"), _sides("left")) == ((), ("right",), ("left", "right"))
