"""Named graphs whose blocks do not correspond: refused, with block, difference and neighbour, and left as they were."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from synthetic import PlanMaker, Shape, random_decoder, write_standard

from foldrank.errors import FoldrankError, GraphNotRecognized, PassRefused
from foldrank.graph.safe.load import load_model
from foldrank.passes.pipeline import transform

DECODER = random_decoder(Shape(blocks=6, packed=False), seed=1)
Change = Callable[[onnx.ModelProto], object]


def refused(folder: Path, change: Change, error: type[FoldrankError], *texts: str) -> None:
    """A fold of blocks 2 and 3 and a pair in block 5 are refused, and the graph stays as it was."""
    path = folder / "model.onnx"
    write_standard(DECODER, path)
    proto = onnx.load(path)
    change(proto)
    del proto.graph.value_info[:]
    onnx.save(proto, path)
    model = load_model(path)
    plan = PlanMaker(DECODER, "0" * 64).fold((2, 3), {2: 0.5, 3: 0.5}).low_rank("block.05.down", 5).plan()
    before = picture(model)
    with pytest.raises(error) as caught:
        transform(model, plan)
    assert [text for text in texts if text not in str(caught.value)] == [], str(caught.value)
    assert picture(model) == before


def picture(model: ir.Model) -> str:
    return hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True)).hexdigest()


def nodes(proto: onnx.ModelProto, block: int, op: str, module: str = "") -> list[onnx.NodeProto]:
    """Nodes of one operator in a module of a block, in order."""
    start = f"/model/layers.{block}/{module}"
    return [n for n in proto.graph.node if n.name.startswith(start) and n.op_type == op]


def insert(proto: onnx.ModelProto, before: onnx.NodeProto, node: onnx.NodeProto) -> None:
    proto.graph.node.insert(list(proto.graph.node).index(before), node)


def test_another_operator(tmp_path: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        nodes(proto, 3, "Sigmoid", "mlp/act_fn")[0].op_type = "Tanh"

    refused(tmp_path, change, PassRefused, "blocks 2 and 3 are of different kinds", "Sigmoid against", "Tanh")


def test_another_attribute(tmp_path: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        nodes(proto, 3, "Softmax", "self_attn")[0].attribute[0].i = 3

    refused(tmp_path, change, PassRefused, "blocks 2 and 3 are of different kinds", "axis=-1 against", "axis=3")


def test_an_extra_edge_within_a_block(tmp_path: Path) -> None:
    """The MLP's result is added to itself in block 3 alone."""
    def change(proto: onnx.ModelProto) -> None:
        last = nodes(proto, 3, "Add")[-1]
        last.input[0] = last.input[1]

    refused(tmp_path, change, PassRefused, "blocks 2 and 3 are of different kinds")


def test_an_extra_edge_between_blocks(tmp_path: Path) -> None:
    """Block 4 reads the attention's result of block 3 beside what leaves it."""
    def change(proto: onnx.ModelProto) -> None:
        inner = nodes(proto, 3, "MatMul", "self_attn/o_proj")[0].output[0]
        last = nodes(proto, 4, "Add")[-1]
        insert(proto, last, helper.make_node("Add", [last.input[1], inner], ["more"], "/model/layers.4/more"))
        last.input[1] = "more"

    refused(tmp_path, change, GraphNotRecognized, "what leaves block 3 differs from what leaves block 0", "nearest")


def test_an_edge_that_skips_from_block_2_to_block_5(tmp_path: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        nodes(proto, 5, "Add")[-1].input[0] = nodes(proto, 2, "Add")[-1].output[0]

    refused(tmp_path, change, GraphNotRecognized, "goes from block 2 to another place than the next block", "layers.5")


def test_other_widths(tmp_path: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        weights = {t.name: t for t in proto.graph.initializer}
        for module, axis in (("gate", 1), ("up", 1), ("down", 0)):
            name = nodes(proto, 3, "MatMul", f"mlp/{module}_proj")[0].input[1]
            matrix = numpy_helper.to_array(weights[name])
            weights[name].CopyFrom(numpy_helper.from_array(np.concatenate([matrix, matrix], axis), name))

    refused(tmp_path, change, PassRefused, "blocks 2 and 3 are of different kinds", "(48, 80)", "(48, 160)")


def test_gaps_between_kv_pairs(tmp_path: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        for kind in ("key", "value"):
            for old, new in (("past_key_values.5", "past_key_values.7"), ("present.5", "present.7")):
                for value in (*proto.graph.input, *proto.graph.output):
                    value.name = value.name.replace(f"{old}.{kind}", f"{new}.{kind}")
                for node in proto.graph.node:
                    node.input[:] = [n.replace(f"{old}.{kind}", f"{new}.{kind}") for n in node.input]
                    node.output[:] = [n.replace(f"{old}.{kind}", f"{new}.{kind}") for n in node.output]

    refused(tmp_path, change, GraphNotRecognized, "numbered with gaps: no pair 5", "nearest: 4")
