"""Which nodes are a block's: names, the stream between them, what is shared, and refusals that name the odd one."""

from __future__ import annotations

import itertools
from pathlib import Path

import onnx_ir as ir
import pytest
from synthetic import Shape, random_decoder
from synthetic.standard import write_standard

from foldrank.errors import GraphNotRecognized, PassRefused
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.passes.drop_blocks import DropBlocks


@pytest.fixture
def llama(tiny_models: Path) -> ir.Model:
    """Six blocks, as optimum wrote them."""
    return load_model(tiny_models / "llama" / "optimum" / "model.onnx")


def named(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.name == name)


def test_what_all_blocks_read_is_no_blocks_own_though_named_after_one(llama: ir.Model) -> None:
    """The rotary angles with an axis put in were traced in block 0."""
    decoder = read_decoder(llama)
    angles = named(llama, "/model/layers.0/self_attn/Unsqueeze_6")
    readers = {name.split("/")[2] for name in (str(node.name) for node in angles.outputs[0].consumers())}
    assert readers == {f"layers.{i}" for i in range(6)}
    assert not any(angles in block.nodes for block in decoder.blocks)
    assert len({block.kind for block in decoder.blocks}) == 1


def test_form_does_not_depend_on_names_or_order_of_nodes(llama: ir.Model) -> None:
    """Constants moved to the front, every node and value that is no linear renamed."""
    before = [block.kind for block in read_decoder(llama).blocks]
    constants = [node for node in llama.graph if node.op_type == "Constant"]
    llama.graph.remove(constants)
    llama.graph.insert_before(next(iter(llama.graph)), reversed(constants))
    number = itertools.count()
    for node in llama.graph:
        if node.op_type not in ("MatMul", "Constant") and "layers." in str(node.name):
            node.name = f"{'/'.join(str(node.name).split('/')[:3])}/n{next(number)}"
    assert [block.kind for block in read_decoder(llama).blocks] == before


def test_nodes_without_a_name_belong_where_the_stream_says(llama: ir.Model) -> None:
    """Every node between two named ones of a block: here all but norms' first casts, linears and additions."""
    before = read_decoder(llama)
    kept = ("_proj/MatMul", "/Add", "/Add_1", "/Cast")
    for i, node in enumerate(llama.graph):
        if "layers." in str(node.name) and not str(node.name).endswith(kept):
            node.name = f"n{i}"
    after = read_decoder(llama)
    assert [block.kind for block in after.blocks] == [block.kind for block in before.blocks]
    assert [[v.name for v in values] for values in after.boundaries] == [
        [v.name for v in values] for values in before.boundaries]


def test_a_value_that_skips_a_block_is_named(llama: ir.Model) -> None:
    value = named(llama, "/model/layers.1/self_attn/o_proj/MatMul").outputs[0]
    named(llama, "/model/layers.4/Add").replace_input_with(0, value)
    with pytest.raises(GraphNotRecognized, match=r"goes from block 1 to another place.*layers\.4/Add"):
        read_decoder(llama)


def test_a_boundary_made_by_another_operator_is_named_with_its_neighbour(llama: ir.Model) -> None:
    old = named(llama, "/model/layers.3/Add_1").outputs[0]
    uses = list(old.uses())
    node = ir.Node("", "Neg", [old], name="/model/layers.3/Neg")
    node.outputs[0].name = "negated"
    for use in uses:
        use.node.replace_input_with(use.idx, node.outputs[0])
    llama.graph.insert_after(named(llama, "/model/layers.3/Add_1"), node)
    with pytest.raises(GraphNotRecognized, match=r"block 3 differs.*negated and /model/layers\.0/Add_1_output_0"):
        read_decoder(llama)


def test_a_block_whose_inner_shape_is_asked_for_outside_does_not_leave(llama: ir.Model) -> None:
    inner = named(llama, "/model/layers.2/self_attn/Transpose_1").outputs[0]
    for i in (3, 4):
        named(llama, f"/model/layers.{i}/self_attn/Shape_3").replace_input_with(0, inner)
    with pytest.raises(PassRefused, match=r"Shape_3 outside of block 2 reads the shape of its .*Transpose_1"):
        DropBlocks((2,)).edit(llama)


def test_cache_of_another_shape_is_not_asked_for_a_length(llama: ir.Model) -> None:
    """The mask's length comes from block 3's cache, whose length has a symbol of its own: block 3 must stay."""
    value = next(v for v in llama.graph.inputs if v.name == "past_key_values.3.key")
    named(llama, "/model/Shape").replace_input_with(0, value)
    DropBlocks((3,)).edit(llama.clone())
    value.shape = ir.Shape(["batch_size", 2, "window", 16])
    with pytest.raises(PassRefused, match="cache of block 3 is read outside"):
        DropBlocks((3,)).edit(llama)


def test_an_axis_of_what_enters_is_the_same_whoever_asks_for_it(llama: ir.Model) -> None:
    """As in a family without a norm before attention: block 0 reads what the embedding's side has asked already."""
    for i, values in enumerate(read_decoder(llama).boundaries[:-1]):
        for name in ("Shape", "Shape_1"):
            named(llama, f"/model/layers.{i}/self_attn/{name}").replace_input_with(0, values[0])
    for name, asked in (("Gather", "/model/Gather_3"), ("Gather_1", "/model/Gather_1")):
        value = named(llama, asked).outputs[0]
        named(llama, f"/model/layers.0/self_attn/{name}").outputs[0].replace_all_uses_with(value)
    first, *others = read_decoder(llama).blocks
    assert {block.kind for block in others} == {first.kind}
    swapped = named(llama, "/model/Gather_1").outputs[0]
    named(llama, "/model/Gather_3").outputs[0].replace_all_uses_with(swapped)
    assert read_decoder(llama).blocks[0].kind != others[0].kind


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_told_behind_reshapes_and_a_fused_product(tmp_path: Path, tied: bool) -> None:
    """As ort_fusions leave GPT-2: ids brought to two axes first, the table read turned by FusedMatMul."""
    write_standard(random_decoder(Shape(blocks=2, packed=False, tied=tied), seed=1), tmp_path / "model.onnx")
    model = load_model(tmp_path / "model.onnx")
    assert read_decoder(model).tied is tied
    graph = model.graph
    gather = next(node for node in graph if node.op_type == "Gather" and node.inputs[1].name == "input_ids")
    axes = ir.Node("", "Constant", [], [ir.AttrTensor("value", ir.tensor([0, -1]))])
    flat = ir.Node("", "Reshape", [gather.inputs[1], axes.outputs[0]])
    graph.insert_before(gather, [axes, flat])
    gather.replace_input_with(1, flat.outputs[0])
    head = next(value.producer() for value in graph.outputs if value.name == "logits")
    assert head.op_type == "MatMul"
    head.domain, head.op_type = "com.microsoft", "FusedMatMul"
    if tied:
        head.replace_input_with(1, head.inputs[1].producer().inputs[0])
    assert read_decoder(model).tied is tied
