"""Graphs that a plan cannot be applied to: what is odd is named, with its block; what only looks odd is edited."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from refusing import DECODER, graph_of, made, node, refuses

from foldrank.errors import GraphNotRecognized, PassRefused
from foldrank.graph.view.decoder import read_decoder
from foldrank.passes.pipeline import transform


def test_blocks_of_different_kinds(tmp_path: Path) -> None:
    decoder = replace(DECODER, windows=[-1, 16, -1, -1])
    plan = made(decoder).fold((0, 1), {0: 0.5, 1: 0.5}).plan()
    refuses(graph_of(decoder, tmp_path), plan, PassRefused, "different kinds", "local_window_size")


def test_a_block_of_another_kind_may_leave(tmp_path: Path) -> None:
    decoder = replace(DECODER, windows=[-1, 16, -1, -1])
    model, _ = transform(graph_of(decoder, tmp_path), made(decoder).fold((0, 1, 2), {0: 1.0, 1: 0.0, 2: 0.0}).plan())
    assert sum(n.op_type == "GroupQueryAttention" for n in model.graph) == 2


def test_quantised_linear_is_named(tmp_path: Path) -> None:
    def quantise(proto: onnx.ModelProto) -> None:
        found = node(proto, "/model/layers.2/mlp/up_proj/MatMul")
        found.op_type, found.domain = "MatMulNBits", "com.microsoft"
        found.input.append(found.input[1])
        found.attribute.extend(helper.make_attribute(name, 32) for name in ("K", "N", "block_size"))

    model = graph_of(DECODER, tmp_path, quantise)
    refuses(model, made().low_rank("block.02.up", 5).plan(), PassRefused, "block.02.up", "MatMulNBits")
    refuses(model, made().fold((1, 2), {1: 0.5, 2: 0.5}).plan(), PassRefused, "MatMulNBits")
    transform(model, made().low_rank("block.01.up", 5).plan())


def test_weight_the_merge_does_not_know(tmp_path: Path) -> None:
    def add_scale(proto: onnx.ModelProto) -> None:
        """A per-block scale on the MLP's result."""
        for i in range(4):
            proto.graph.initializer.append(numpy_helper.from_array(np.full(48, i + 1, np.float32), f"scale.{i}"))
            name = f"/model/layers.{i}/mlp"
            up = node(proto, f"{name}/up_proj/MatMul")
            new = onnx.helper.make_node("Mul", [up.input[0], f"scale.{i}"], [f"scaled.{i}"], f"{name}/scale")
            proto.graph.node.insert(list(proto.graph.node).index(up), new)
            up.input[0] = f"scaled.{i}"

    model = graph_of(DECODER, tmp_path, add_scale)
    refuses(model, made().fold((1, 2), {1: 0.0, 2: 1.0}).plan(), PassRefused, "scale.1")


def test_roles_that_read_different_inputs(tmp_path: Path) -> None:
    def part(proto: onnx.ModelProto) -> None:
        up = node(proto, "/model/layers.1/mlp/up_proj/MatMul")
        other = onnx.helper.make_node("Identity", [up.input[0]], ["apart"], "/model/layers.1/mlp/apart")
        proto.graph.node.insert(list(proto.graph.node).index(up), other)
        up.input[0] = "apart"

    refuses(graph_of(DECODER, tmp_path, part), made().low_rank("block.01.gate_up", 5).plan(), PassRefused, "one input")


def test_shared_weight_is_unshared_by_a_fold_and_stays_for_its_other_reader(tmp_path: Path) -> None:
    """Blocks 1 and 3 read one down weight; folding 1 and 2 must leave block 3's as it is."""
    blocks = [dict(b) for b in DECODER.blocks]
    blocks[3]["down"] = blocks[1]["down"]
    decoder = replace(DECODER, blocks=blocks)

    def share(proto: onnx.ModelProto) -> None:
        weights = ["model.layers.1.mlp.down_proj.MatMul.weight", "model.layers.3.mlp.down_proj.MatMul.weight"]
        node(proto, "/model/layers.3/mlp/down_proj/MatMul").input[1] = weights[0]
        kept = [t for t in proto.graph.initializer if t.name != weights[1]]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)

    model, _ = transform(graph_of(decoder, tmp_path, share), made(decoder).fold((1, 2), {1: 0.0, 2: 1.0}).plan())
    found = {n.name: n.inputs[1].const_value.numpy() for n in model.graph if "down_proj" in n.name}
    np.testing.assert_array_equal(found["/model/layers.3/mlp/down_proj/MatMul"], decoder.blocks[3]["down"])
    np.testing.assert_array_equal(found["/model/layers.1/mlp/down_proj/MatMul"], decoder.blocks[2]["down"])


def test_graphs_that_are_no_decoder(tmp_path: Path) -> None:
    """Without names the attention of block 2 is asked for, which reads the cache of no block before it."""
    def rename(proto: onnx.ModelProto) -> None:
        node(proto, "/model/layers.2/input_layernorm/SkipLayerNorm").input[:2] = (
            "/model/embed_tokens/Gather/output_0", "/model/embed_tokens/Gather/output_0")
        for i, found in enumerate(proto.graph.node):
            found.name = f"n{i}"

    model = graph_of(DECODER, tmp_path, rename)
    refuses(model, made().plan(), GraphNotRecognized, "attention of KV pair 2 does not depend on that of pair 1")


def test_block_that_skips_its_neighbour(tmp_path: Path) -> None:
    def skip(proto: onnx.ModelProto) -> None:
        node(proto, "/model/layers.3/input_layernorm/SkipLayerNorm").input[1] = (
            "/model/layers.1/mlp/down_proj/MatMul/output_0")

    with pytest.raises(GraphNotRecognized, match="goes from block 1 to another place"):
        transform(graph_of(DECODER, tmp_path, skip), made().plan())


def test_boundary_of_another_form(tmp_path: Path) -> None:
    def swap(proto: onnx.ModelProto) -> None:
        found = node(proto, "/model/layers.2/input_layernorm/SkipLayerNorm").input
        found[0], found[1] = found[1], found[0]

    with pytest.raises(GraphNotRecognized, match="what leaves block 1 differs"):
        read_decoder(graph_of(DECODER, tmp_path, swap))
