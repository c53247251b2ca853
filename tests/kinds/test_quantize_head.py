"""quantize_head: what it is, what it leaves, and that each of its rooms does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kind_rooms import ANATOMY, Rooms

import foldrank
from foldrank.digests import WeightDigest
from foldrank.edits.quantize_head import QuantizeHead
from foldrank.edits.storage import FewBits
from foldrank.errors import PassRefused, PlanMismatch
from foldrank.graph.safe.load import load_model
from foldrank.model.checkpoint import Checkpoint
from foldrank.passes.pipeline import transform
from foldrank.plans.models.decoder import load_decoder
from foldrank.runtime.quantizer import quantize

FEW = FewBits(4, 16, True, 0)
DIGEST = WeightDigest("0" * 64, "0" * 64, "0" * 64)


def test_the_head_is_its_own_then() -> None:
    after = QuantizeHead((48, 50), FEW, DIGEST).on(ANATOMY)
    assert (after.head, after.tied) == (replace(ANATOMY.head, few_bits=FEW), False)
    with pytest.raises(ValueError, match=r"the head is \[48, 50\], floats, not \[48, 51\]"):
        QuantizeHead((48, 51), FEW, DIGEST).on(ANATOMY)


def test_planner_and_reference_agree(rooms: Rooms, tiny: Checkpoint) -> None:
    head = load_decoder(tiny).head.numpy()
    dense, planned, reference = rooms([QuantizeHead(head.shape, FEW, WeightDigest.of(head))], {})
    torch.testing.assert_close(planned, reference, rtol=0, atol=1e-4)
    assert (dense - reference).abs().max() > 1e-2


def test_another_head_is_refused(tiny_models: Path) -> None:
    folder = tiny_models / "llama"
    model = load_model(folder / "optimum" / "model.onnx")
    methods = ["quantize:bits=4,block_size=16,accuracy=0,rounding=nearest,head_bits=4,embedding_bits=none"]
    plan = foldrank.plan(folder / "checkpoint", methods=methods, calibration_tokens=256)
    (few,) = plan.of(QuantizeHead)
    for change, said in (
        ({"replaces": WeightDigest.of(np.zeros((3, 3), np.float32))}, PlanMismatch),
        ({"shape": (few.shape[0], 7)}, PassRefused),
    ):
        edits = (*plan.edits[:-1], replace(few, **change))
        other = replace(plan, document=replace(plan.document, edits=edits))
        with pytest.raises(said, match="head"):
            transform(model, other, quantizer=quantize)
