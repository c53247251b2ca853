"""add_bias: what it is, what it leaves, and that each of its rooms adds it, whatever bias was there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from kind_rooms import ANATOMY, Edited, Rooms
from nightly import AT_NIGHT
from proved import prove
from synthetic import Decoder, PlanMaker, Shape, random_decoder, run_onnx, worst
from synthetic.strategies import Written
from torch_model import Model

from foldrank.edits.add_bias import AddBias
from foldrank.edits.base import Touch
from foldrank.errors import PassRefused, PlanMismatch
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.model.checkpoint import Checkpoint
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.planfile.document import PlanDocument
from foldrank.plans.models.decoder import load_decoder
from foldrank.sites import Site

IDS = np.random.default_rng(4).integers(0, 50, 16)
ROLES = ("q", "k", "v", "o", "gate", "up", "down")


def test_it_reads_its_matrix_and_leaves_the_anatomy() -> None:
    edit = AddBias(Site.parse("block.01.k"), 32, "b")
    assert edit.touch == Touch(reads=frozenset({Site.parse("block.01.k")}))
    assert edit.on(ANATOMY) == ANATOMY
    assert edit.arrays() == {"b": (32,)}
    with pytest.raises(ValueError, match=r"block\.01\.q: gives 64 numbers, the edit adds 32"):
        AddBias(Site.parse("block.01.q"), 32, "b").on(ANATOMY)
    with pytest.raises(ValueError, match="a bias stands behind one role"):
        AddBias(Site.parse("block.01.qkv"), 128, "b")


def test_it_tells_what_it_is() -> None:
    edit = AddBias(Site.parse("block.01.k"), 32, "b")
    assert edit.row() == {"site": "block.01.k", "width": 32}
    assert edit.facts(",".join) == {"block.01.k bias": "b"}
    assert AddBias.table([edit]).rows == [("block.01.k", 32)]


def test_the_graph_adds_them_behind_matrices_and_pairs(decoder: tuple[Decoder, str], edited: Edited) -> None:
    """Behind every role of a block, a part of a packed weight alone, a narrower MLP with a bias of its own, pairs."""
    maker = PlanMaker(decoder[0], "0" * 64).slice(3, tuple(range(48)), bias=True)
    for role in ROLES:
        maker.bias(f"block.01.{role}")
    maker.bias("block.00.k").bias("block.03.down").bias("block.03.up").bias("block.02.q").bias("block.02.o")
    maker.low_rank("block.01.v", 5).low_rank("block.01.o", 7).low_rank("block.02.qkv", 9)
    after = read_decoder(edited(maker))
    assert all(after.by_number[1].by_role[role].biases for role in ("gate", "up", "down"))


@pytest.mark.parametrize(("style", "options"), [
    ("optimum", {"all_biased": True, "form": "gemm"}), ("torch", {"all_biased": True}), ("genai", {"packed": False}),
    ("optimum", {"form": "gemm"}), ("unnamed genai", {}),
])
def test_of_every_way_to_write_a_bias(style: str, options: dict[str, object], tmp_path: Path) -> None:
    decoder = random_decoder(Shape(**options), seed=3)
    dense = load_model(Written(decoder, style).write(tmp_path / "dense"))
    maker = PlanMaker(decoder, "0" * 64)
    for block in range(4):
        for role in ROLES:
            maker.bias(f"block.{block:02d}.{role}")
    (tmp_path / "small").mkdir()
    write_model(transform(dense, maker.plan())[0], tmp_path / "small")
    for steps in ((16,), (7, 1, 8)):
        found = run_onnx(tmp_path / "small" / "model.onnx", IDS, steps)
        assert worst(found, maker.expected().logits(IDS)) < 1e-5


@pytest.mark.parametrize("family", ["gpt2", "opt", *(("mistral", "qwen2", "gemma2") if AT_NIGHT else ())])
def test_graphs_of_real_families_compute_what_transformers_does(
    family: str, tiny_models: Path, tmp_path: Path
) -> None:
    """Packed Gemms and Linears with biases of their own, and a pair behind one of them."""
    model = Model(tiny_models / family / "checkpoint")
    for role in model.roles:
        model.bias(f"block.01.{role}")
    model.bias("block.04.v").bias("block.03.down").low_rank("block.01.up", 7).low_rank("block.04.qkv", 9)
    prove(tiny_models / family / "optimum" / "model.onnx", model, tmp_path / "small")


def test_another_matrix_and_another_width_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(), seed=5)
    dense = load_model(Written(decoder, "genai").write(tmp_path))
    maker = PlanMaker(decoder, "0" * 64).bias("block.01.o").bias("block.02.k")
    plan = maker.plan()
    source = replace(plan.document.source, weights={
        **plan.document.source.weights, "block.02.k": plan.document.source.weights["block.01.o"]})
    before = [node.name for node in dense.graph]
    with pytest.raises(PlanMismatch, match=r"block\.02\.k: the graph holds other weights"):
        transform(dense, replace(plan, document=replace(plan.document, source=source)))
    wide = tuple(replace(edit, width=33) if edit.site.role == "k" else edit for edit in plan.of(AddBias))
    arrays = {**plan.arrays, "block.02.k.bias": np.zeros(33, np.float32)}
    with pytest.raises((PassRefused, PlanMismatch), match=r"block\.02\.k"):
        transform(dense, replace(plan, document=with_edits(plan.document, wide), arrays=arrays))
    assert [node.name for node in dense.graph] == before


def with_edits(document: PlanDocument, edits: tuple[AddBias, ...]) -> PlanDocument:
    return replace(document, edits=edits)


def test_a_plan_without_the_digest_of_its_matrix_is_refused(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(), seed=3)
    plan = PlanMaker(decoder, "0" * 64).bias("block.02.k", seed=1).plan()
    model = load_model(Written(decoder, "genai").write(tmp_path))
    source = replace(plan.document.source, weights={})
    with pytest.raises(PlanMismatch, match=r"block\.02\.k: .* holds no digest of it"):
        transform(model, replace(plan, document=replace(plan.document, source=source)))


def test_in_fp16_the_bias_is_fp16_too(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(dtype="float16"), seed=5)
    dense = load_model(Written(decoder, "genai").write(tmp_path))
    added, _ = transform(dense, PlanMaker(decoder, "0" * 64).bias("block.01.o").plan())
    assert ir.DataType.FLOAT not in {linear.tensor.dtype for linear in read_decoder(added).by_number[1].linears}


def test_planner_and_reference_agree(rooms: Rooms, tiny: Checkpoint) -> None:
    """Behind matrices with biases and without."""
    block, random = load_decoder(tiny).block(2), np.random.default_rng(0)
    edits = [AddBias(Site(2, (role,)), block.weight(role).shape[1], role) for role in ("q", "k", "o", "gate", "down")]
    arrays = {edit.bias: random.standard_normal(edit.width).astype(np.float32) for edit in edits}
    dense, planned, reference = rooms(list(edits), arrays)
    torch.testing.assert_close(planned, reference, rtol=0, atol=1e-4)
    assert (dense - reference).abs().max() > 1e-1
