"""Scales that recovery trained, in a real graph: bit for bit the plan's, and what PyTorch computes with that plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nightly import NIGHTLY

import foldrank
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.graph.linear.weights import read
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.plans.models.decoder import load_decoder
from foldrank.plans.models.packing import packed
from foldrank.plans.models.rounding import Grid
from foldrank.sites import Site


@NIGHTLY
def test_a_graph_has_the_trained_scales_and_its_proof_passes(specs_5m: Path, dense_5m: Path, tmp_path: Path) -> None:
    made = foldrank.plan(
        specs_5m, tmp_path / "plan", methods=["quantize:bits=4,rounding=nearest,accuracy=0"], calibration_tokens=256,
        recover="scales", recover_steps=6, recover_tokens=4096)
    plan, predicted = Plan.read(tmp_path / "plan"), made.document.predicted
    assert predicted["recover.kl_after"] < 0.97 * predicted["recover.kl_before"]
    small = foldrank.apply(dense_5m, plan, tmp_path / "small").path
    report = foldrank.validate(small, reference=dense_5m, tokens=1024)
    assert report["graph"]["passed"]
    assert report["graph"]["numbers_planned"]["passed"]
    source, edits = load_decoder(Checkpoint.open(specs_5m)), {edit.site: edit for edit in plan.of(QuantizeWeight)}
    for block in read_decoder(load_model(small / "model.onnx")).blocks:
        for few in block.few_bits:
            here = [edits[Site(block.number, (role,))] for role in few.roles]
            numbers, scales = (read(value.const_value) for value in few.node.inputs[1:3])
            weights = [source.block(block.number).weight(role) for role in few.roles]
            nearest = [packed(Grid.of(w, edit.storage).nearest(w)) for w, edit in zip(weights, here, strict=True)]
            assert np.array_equal(numbers, np.concatenate([known.numbers for known in nearest])), "numbers stay"
            assert np.array_equal(scales, np.concatenate([plan.arrays[edit.held[0].scales] for edit in here]))
            assert not np.array_equal(scales, np.concatenate([known.scales for known in nearest]))
