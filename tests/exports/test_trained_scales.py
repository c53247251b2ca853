"""Scales that recovery trained, in a real graph: bit for bit the plan's, and what PyTorch computes with that plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import foldrank
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.graph.linear.weights import read
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.planfile.plan import Plan
from foldrank.sites import Site

METHODS = ["quantize:bits=4,rounding=nearest,accuracy=0"]


def stored(bundle: Path) -> dict[tuple[Site, ...], list[np.ndarray]]:
    """Numbers and scales of every MatMulNBits of the blocks."""
    return {tuple(Site(block.number, (role,)) for role in few.roles):
            [read(value.const_value) for value in few.node.inputs[1:3]]
            for block in read_decoder(load_model(bundle / "model.onnx")).blocks for few in block.few_bits}


@pytest.mark.slow
def test_a_graph_has_the_trained_scales_and_its_proof_passes(specs_5m: Path, dense_5m: Path, tmp_path: Path) -> None:
    near = foldrank.plan(specs_5m, methods=METHODS, calibration_tokens=256)
    made = foldrank.plan(specs_5m, tmp_path / "plan", methods=METHODS, calibration_tokens=256, recover="scales",
                         recover_steps=8, recover_tokens=8192)
    plan, predicted = Plan.read(tmp_path / "plan"), made.document.predicted
    assert not near.arrays
    assert predicted["recover.kl_after"] < 0.95 * predicted["recover.kl_before"]
    before, small = (foldrank.apply(dense_5m, p, tmp_path / name).path for name, p in (("near", near), ("small", plan)))
    report = foldrank.validate(small, reference=dense_5m, tokens=1024)
    assert report["graph"]["passed"]
    assert report["graph"]["numbers_planned"]["passed"]
    held = {edit.site: edit.held[0].scales for edit in plan.of(QuantizeWeight)}
    untrained = stored(before)
    for sites, (numbers, scales) in stored(small).items():
        assert np.array_equal(numbers, untrained[sites][0]), "numbers stay"
        assert np.array_equal(scales, np.concatenate([plan.arrays[held[site]] for site in sites]))
        assert not np.array_equal(scales, untrained[sites][1])
