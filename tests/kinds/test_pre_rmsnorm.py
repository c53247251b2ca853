"""pre_rmsnorm: logits are those of the model with LayerNorms; what comes behind it sees RMS norms and no mean."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nightly import AT_NIGHT
from kind_rooms import ANATOMY, Edited, Rooms
from synthetic import PlanMaker, Shape, random_decoder, run_onnx, worst
from synthetic.strategies import STYLES, Written, law, shapes
from tiny_families import TINY, Tiny, save
from torch_model import Model, prove

from foldrank.digests import WeightDigest
from foldrank.edits.base import Touch, parts_of
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.laws import check_edits
from foldrank.edits.pre_rmsnorm import PreRmsnorm
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.edits.rotate_stream import RotateStream
from foldrank.edits.share_weights import ShareWeights
from foldrank.edits.storage import FewBits
from foldrank.errors import InvariantBroken, PassRefused, PlanMismatch, SourceError
from foldrank.graph.anatomy import anatomy_of
from foldrank.graph.safe.load import load_model
from foldrank.model.checkpoint import Checkpoint
from foldrank.passes.pipeline import transform
from foldrank.passes.rms_norms import RmsNorms
from foldrank.passes.write import write_model
from foldrank.planfile.plan import Plan
from foldrank.plans.models.decoder import load_decoder
from foldrank.plans.simulate import apply_edits
from foldrank.runtime.quantizer import quantize
from foldrank.sites import Site

DIGEST = WeightDigest("0" * 64, "0" * 64, "0" * 64)
ALL = tuple(range(4))
WHOLE = PreRmsnorm(48, ALL, ALL)
IDS = np.random.default_rng(6).integers(0, 10, 15)


def made(source: Written, maker: PlanMaker, folder: Path) -> Path:
    (folder / "small").mkdir()
    model, _ = transform(load_model(source.write(folder / "dense")), maker.plan(), quantizer=quantize)
    write_model(model, folder / "small")
    return folder / "small" / "model.onnx"


@law(6)
@given(data=st.data())
def test_whoever_wrote_a_graph_it_computes_the_same_logits(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """LayerNorms in every form, parallel branches too. The oracle is the decoder as it was, with its LayerNorms."""
    style = data.draw(st.sampled_from(STYLES))
    genai = style.endswith("genai")
    norms = "before" if genai else data.draw(st.sampled_from(["before", "parallel"]))
    shape = replace(data.draw(shapes(style)), dtype="float32", norms=norms)
    shape = replace(shape, packed=shape.packed and norms == "before",
                    layer="op" if genai else data.draw(st.sampled_from(["op", "apart"])))
    decoder = random_decoder(shape, seed=data.draw(st.integers(0, 9)))
    graph = made(Written(decoder, style), PlanMaker(decoder, "0" * 64).centre(), tmp_path_factory.mktemp("law"))
    for steps in ((15,), (6, 1, 8)):
        assert worst(run_onnx(graph, IDS, steps), decoder.logits(IDS)) < 1e-5
    assert anatomy_of(graph).centred is True
