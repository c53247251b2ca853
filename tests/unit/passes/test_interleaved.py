"""q, k and v that lie head by head in one weight: edited together as they are stored, refused one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from synthetic import PlanMaker, Shape, random_decoder, run_onnx, worst, write_graph

from foldrank.errors import PassRefused
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.model.modules import is_interleaved, roles_of_module
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model


@pytest.fixture
def renamed(tmp_path: Path) -> Path:
    """A decoder of packed weights whose nodes are named as optimum names GPT-NeoX's."""
    write_graph(random_decoder(Shape()), tmp_path / "model.onnx")
    model = ir.load(tmp_path / "model.onnx")
    for node in model.graph:
        node.name = (node.name or "").replace("/model/layers.", "/gpt_neox/layers.").replace(
            "/attn/qkv_proj/", "/attention/query_key_value/").replace("/attn/o_proj/", "/attention/dense/")
    ir.save(model, tmp_path / "model.onnx", external_data="model.onnx.data")
    return tmp_path / "model.onnx"


def test_the_module_is_a_site_of_three_roles() -> None:
    for path in ("attention.query_key_value", "self_attention.query_key_value"):
        assert roles_of_module(path) == ("q", "k", "v")
        assert is_interleaved(path)
    assert not is_interleaved("self_attn.qkv_proj")
    assert roles_of_module("self_attention.dense") == ("o",)
    assert roles_of_module("mlp.dense_4h_to_h") == ("down",)


def test_together_they_are_replaced_and_alone_refused(renamed: Path, tmp_path: Path) -> None:
    decoder = read_decoder(load_model(renamed))
    assert decoder.dialect == "optimum"
    assert [linear.interleaved for linear in decoder.blocks[1].linears if "q" in linear.roles] == [True]
    maker = PlanMaker(random_decoder(Shape()), "0" * 64)
    maker.low_rank("block.01.qkv", 7)
    changed, _ = transform(load_model(renamed), maker.plan())
    (tmp_path / "out").mkdir()
    write_model(changed, tmp_path / "out")
    ids = np.arange(3, 15)
    assert worst(run_onnx(tmp_path / "out" / "model.onnx", ids), maker.expected().logits(ids)) < 1e-4
    for role in "qkv":
        alone = PlanMaker(random_decoder(Shape()), "0" * 64)
        alone.low_rank(f"block.01.{role}", 3)
        with pytest.raises(PassRefused, match=rf"block\.01\.{role}: its weight holds q, k, v head by head"):
            transform(load_model(renamed), alone.plan())
