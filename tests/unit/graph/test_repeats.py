"""Blocks found by dataflow alone: refused, with what differs and the nearest candidate, where they do not repeat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from anonymous import strip_names
from onnx import helper, numpy_helper
from synthetic import Shape, random_decoder, write_graph, write_standard

from foldrank.errors import GraphNotRecognized
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder

DECODER = random_decoder(Shape(blocks=5), seed=1)


def bare(folder: Path, change: Callable[[onnx.ModelProto], object] | None = None, blocks: int = 5) -> ir.Model:
    """A genai graph without names, changed while it still had them."""
    decoder = DECODER if blocks == 5 else random_decoder(Shape(blocks=blocks))
    write_graph(decoder, folder / "model.onnx")
    if change is not None:
        proto = onnx.load(folder / "model.onnx")
        change(proto)
        onnx.save(proto, folder / "model.onnx")
    return load_model(strip_names(folder / "model.onnx", folder / "bare" / "model.onnx"))


def node(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in proto.graph.node if n.name == name)


def put_behind(proto: onnx.ModelProto, name: str, op: str) -> None:
    """Another operator between a node and its readers."""
    before = node(proto, name)
    value = before.output[0]
    before.output[0] = f"{value}/before"
    new = helper.make_node(op, [before.output[0]], [value], f"{name}/{op}")
    proto.graph.node.insert(list(proto.graph.node).index(before) + 1, new)


@pytest.mark.parametrize("block", [0, 1, 2, 4])
@pytest.mark.parametrize("where", ["attn/o_proj/MatMul", "mlp/down_proj/MatMul"])
def test_a_block_with_another_operator_is_named(tmp_path: Path, block: int, where: str) -> None:
    model = bare(tmp_path, lambda proto: put_behind(proto, f"/model/layers.{block}/{where}", "Neg"))
    told = rf"block {block} differs.*Neg|pairs {block} and .*\(1 Neg more\)|leaves block 4 differs.*Neg"
    with pytest.raises(GraphNotRecognized, match=told):
        read_decoder(model)


def test_an_operator_exchanged_is_named(tmp_path: Path) -> None:
    def exchange(proto: onnx.ModelProto) -> None:
        node(proto, "/model/layers.3/mlp/act_fn/Sigmoid").op_type = "Tanh"

    with pytest.raises(GraphNotRecognized, match=r"block 3 differs from block \d: 1 Tanh more, 1 Sigmoid fewer"):
        read_decoder(bare(tmp_path, exchange))


def test_a_block_of_other_widths_is_named(tmp_path: Path) -> None:
    def widen(proto: onnx.ModelProto) -> None:
        for name, axis in (("gate", 1), ("up", 1), ("down", 0)):
            full = f"model.layers.2.mlp.{name}_proj.MatMul.weight"
            tensor = next(t for t in proto.graph.initializer if t.name == full)
            matrix = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.concatenate([matrix, matrix], axis), full))

    with pytest.raises(GraphNotRecognized, match=r"block 2 differs from block \d: .*48.*160"):
        read_decoder(bare(tmp_path, widen))


def test_a_value_that_skips_blocks_is_named(tmp_path: Path) -> None:
    def skip(proto: onnx.ModelProto) -> None:
        node(proto, "/model/layers.4/mlp/down_proj/MatMul").input[0] = "/model/layers.2/mlp/Mul/output_0"

    told = r"between KV pairs 2 and 3 the stream narrows to 2 values in 4 places, elsewhere to 2 in 7 .*; nearest: v"
    with pytest.raises(GraphNotRecognized, match=told):
        read_decoder(bare(tmp_path, skip))


def test_in_one_block_nothing_repeats(tmp_path: Path) -> None:
    with pytest.raises(GraphNotRecognized, match="one block nothing repeats"):
        read_decoder(bare(tmp_path, blocks=1))


def test_attributes_and_masks_may_differ_between_blocks(tmp_path: Path) -> None:
    """Sliding and full attention alternate in many families: what repeats is the wiring."""
    decoder = replace(DECODER, windows=[-1, 16, -1, 16, -1])
    write_graph(decoder, tmp_path / "model.onnx")
    found = read_decoder(load_model(strip_names(tmp_path / "model.onnx", tmp_path / "bare" / "model.onnx")))
    assert [block.kind == found.blocks[1].kind for block in found.blocks] == [False, True, False, True, False]


def test_linears_whose_part_cannot_be_told_are_refused(tmp_path: Path) -> None:
    """A product of two plain projections has no gate; nothing is left that could be told but attention."""
    def plain(proto: onnx.ModelProto) -> None:
        for i in range(5):
            node(proto, f"/model/layers.{i}/mlp/Mul").input[0] = f"/model/layers.{i}/mlp/gate_proj/MatMul/output_0"

    found = read_decoder(bare(tmp_path, plain))
    assert [sorted(block.by_role) for block in found.blocks] == [["k", "o", "q", "v"]] * 5
    assert all(len(block.unknown) == 3 for block in found.blocks)


def test_a_norm_that_may_be_either_neighbours_is_refused(tmp_path: Path) -> None:
    """The residual's sum is normed behind each branch, and the embedding too: does a norm end a block or begin one?
    Without the embedding's norm it can only end one."""
    decoder = random_decoder(Shape(blocks=4, norms="sum", packed=False))
    write_standard(decoder, tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    read = read_decoder(load_model(strip_names(tmp_path / "model.onnx", tmp_path / "bare" / "model.onnx")))
    assert [len(block.norms) for block in read.blocks] == [2] * 4
    embedded = next(n for n in proto.graph.node if n.op_type == "Gather" and "input_ids" in n.input)
    value, place = embedded.output[0], list(proto.graph.node).index(embedded)
    norm = [n for n in proto.graph.node if n.name.startswith("/model/layers.0/norm_1/")]
    inside = {name for n in norm for name in n.output}
    for i, node in enumerate(norm):
        new = onnx.NodeProto.FromString(node.SerializeToString())
        new.name += "/embedding"
        new.input[:] = [f"{v}/embedding" if v in inside else value if node.op_type == "Cast" and not i else v
                        for v in node.input]
        new.output[:] = [f"{v}/embedding" for v in node.output]
        proto.graph.node.insert(place + 1 + i, new)
    normed = f"{norm[-1].output[0]}/embedding"
    for node in proto.graph.node:
        if "/embedding" not in node.name:
            node.input[:] = [normed if v == value else v for v in node.input]
    onnx.save(proto, tmp_path / "model.onnx")
    model = load_model(strip_names(tmp_path / "model.onnx", tmp_path / "normed" / "model.onnx"))
    told = r"two ways to part blocks: at v\d+ or v\d+; v\d+ may belong to either"
    with pytest.raises(GraphNotRecognized, match=told):
        read_decoder(model)
