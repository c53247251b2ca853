"""Graphs without names that say anything are read, and edited, as the same graphs with their names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from anonymous import optimised, strip_names
from nightly import AT_NIGHT
from same_view import same_view
from synthetic import PlanMaker, Shape, random_decoder, run_onnx, worst, write_graph

from foldrank.graph.invariants import check_file
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model

pytest.importorskip("torch")
from proved import prove
from torch_model import Model

FAMILIES = ("llama", "mistral", "qwen2", "gemma2", "gpt2", "opt")


def fixture(tiny_models: Path, family: str) -> tuple[Path, Path]:
    folder = tiny_models / family
    return folder / "checkpoint", folder / "optimum" / "model.onnx"


def edited(family: str, checkpoint: Path) -> Model:
    """A fold with a change of place, and pairs on one role, on packed roles and in the merged block."""
    model = Model(checkpoint)
    if family == "gemma2":
        for layer in model.layers:  # optimum's graph leaves the soft cap of attention out
            layer.self_attn.attn_logit_softcapping = None
        model.fold((1, 2, 3), {1: 0.5, 2: 0.0, 3: 0.5}, "top", into=1).low_rank("block.01.down", 7)
    else:
        model.fold((1, 2), {1: 0.75, 2: 0.5}, "top", into=2).low_rank("block.02.down", 7)
    up = "gate_up" if "gate" in model.roles else "up"
    return model.low_rank("block.00.qkv", 13).low_rank(f"block.04.{up}", 11).low_rank("block.04.o", 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_optimum_graphs_without_names(tiny_models: Path, tmp_path: Path, family: str) -> None:
    checkpoint, graph = fixture(tiny_models, family)
    bare = strip_names(graph, tmp_path / "bare" / "model.onnx")
    same_view(graph, bare)
    small = prove(bare, edited(family, checkpoint), tmp_path / "small")
    left = read_decoder(load_model(small))
    assert left.dialect == "unnamed"
    numbers = [0, 1, 4, 5] if family == "gemma2" else [0, 2, 3, 4, 5]
    assert [block.number for block in left.blocks] == numbers[: len(left.blocks)]
    assert {str(site) for block in left.blocks for pair in block.pairs for site in pair.sites} >= {"block.00.qkv"}


@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_that_onnxruntime_optimised_with_and_without_names(
    tiny_models: Path, tmp_path: Path, family: str
) -> None:
    checkpoint, graph = fixture(tiny_models, family)
    basic = optimised(graph, tmp_path / "basic" / "model.onnx")
    bare = strip_names(basic, tmp_path / "bare" / "model.onnx", numbered=True)
    same_view(basic, bare)
    if AT_NIGHT or family in ("llama", "gpt2"):
        prove(basic, edited(family, checkpoint), tmp_path / "small")
        prove(bare, edited(family, checkpoint), tmp_path / "bare_small")


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "split"])
@pytest.mark.parametrize("blocks", [2, 3, 6])
def test_genai_graphs_without_names(tmp_path: Path, blocks: int, packed: bool) -> None:
    """The residual is two values between blocks, one before the first."""
    decoder = random_decoder(Shape(blocks=blocks, packed=packed, biased=packed, tied=not packed), seed=blocks)
    write_graph(decoder, tmp_path / "model.onnx")
    bare = strip_names(tmp_path / "model.onnx", tmp_path / "bare" / "model.onnx")
    same_view(tmp_path / "model.onnx", bare)
    maker = PlanMaker(decoder, "0" * 64).fold((0, 1), {0: 0.5, 1: 0.25}, into=1, norms="top")
    maker.low_rank("block.01.k", 3).low_rank("block.01.gate_up", 9)
    if blocks > 2:
        maker.low_rank("block.02.qkv", 11).replace("block.02.down")
    changed, _ = transform(load_model(bare), maker.plan())
    (tmp_path / "small").mkdir()
    write_model(changed, tmp_path / "small")
    check_file(tmp_path / "small" / "model.onnx", "written")
    ids = np.random.default_rng(1).integers(0, 50, 11)
    for steps in (None, (4, 1, 6)):
        assert worst(run_onnx(tmp_path / "small" / "model.onnx", ids, steps), maker.expected().logits(ids)) < 1e-4


def test_a_marked_graph_is_read_again_though_its_blocks_are_no_longer_alike(tmp_path: Path) -> None:
    """Every linear of block 1 is a pair: neither forms nor linears of it are left."""
    decoder = random_decoder(Shape(packed=False), seed=3)
    write_graph(decoder, tmp_path / "model.onnx")
    bare = strip_names(tmp_path / "model.onnx", tmp_path / "bare" / "model.onnx")
    maker = PlanMaker(decoder, "0" * 64)
    for role in ("q", "k", "v", "o", "gate", "up", "down"):
        maker.low_rank(f"block.01.{role}", 3)
    changed, receipts = transform(load_model(bare), maker.plan())
    found = read_decoder(changed)
    assert [len(block.pairs) for block in found.blocks] == [0, 7, 0, 0]
    marked = next(receipt for receipt in receipts if receipt.name == "mark_blocks")
    assert [change.where for change in marked.changes] == [f"block.{i:02d}" for i in range(4)]
    names = [node.name for node in changed.graph]
    assert len(set(names)) == len(names)
    assert all(re.match(r"block\.\d\d/", str(node.name)) for block in found.blocks for node in block.nodes)
