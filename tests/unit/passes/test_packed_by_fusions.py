"""Linears that ort_fusions packed because they read one input: no scope tells what they are, what reads them does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper
from synthetic import PlanMaker, Shape, random_decoder, run_onnx, worst, write_standard

from foldrank.graph.dialects.torch_export import DIALECT
from foldrank.graph.linear.parts import biases_of
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model

IDS = np.random.default_rng(1).integers(0, 50, 11)
SCOPES = "pkg.torch.onnx.name_scopes"
DECODER = random_decoder(Shape(norms="after", qk_norm=True, all_biased=True), seed=1)


def fused(folder: Path) -> Path:
    """A decoder whose attention reads the stream itself, its packed linears as fusions leave them: biases part by
    part, in modules of their own, and neither the MatMul nor the Split with a scope."""
    write_standard(DECODER, folder / "model.onnx", "torch")
    proto = onnx.load(folder / "model.onnx")
    makers = {name: node for node in proto.graph.node for name in node.output}
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    for split in [node for node in proto.graph.node if node.op_type == "Split"]:
        added = makers[split.input[0]]
        bias, product = (added.input[0], added.input[1])
        del makers[product].metadata_props[:]
        del split.metadata_props[:]
        whole = numpy_helper.to_array(weights[bias])
        stops = np.cumsum(numpy_helper.to_array(makers[split.input[1]].attribute[0].t))[:-1]
        split.input[0] = product
        place = list(proto.graph.node).index(split)
        for i, part in enumerate(np.split(whole, stops)):
            weight = numpy_helper.from_array(part, f"{bias}.{i}")
            proto.graph.initializer.append(weight)
            result, split.output[i] = split.output[i], f"{split.output[i]}_plain"
            node = helper.make_node("Add", [split.output[i], weight.name], [result], f"{added.name}_{i}")
            node.metadata_props.extend(added.metadata_props)
            proto.graph.node.insert(place + 1, node)
        proto.graph.node.remove(added)
        proto.graph.initializer.remove(weights[bias])
    del proto.graph.value_info[:]
    onnx.save(proto, folder / "model.onnx")
    return folder / "model.onnx"


def test_they_are_of_the_block_that_reads_their_parts_and_have_a_bias_for_each(tmp_path: Path) -> None:
    decoder = read_decoder(load_model(fused(tmp_path)))
    assert len({block.kind for block in decoder.blocks}) == 1
    for block in decoder.blocks:
        assert {linear.roles: len(linear.biases) for linear in block.linears} == {
            ("q", "k", "v"): 3, ("o",): 1, ("gate", "up"): 2, ("down",): 1}
        assert block.unknown == []


def test_their_edits_compute_what_the_plan_says(tmp_path: Path) -> None:
    graph = fused(tmp_path)
    maker = PlanMaker(DECODER, "0" * 64).fold((1, 2), {1: 0.5, 2: 0.5}, into=2, norms="top")
    maker.low_rank("block.00.k", 5).low_rank("block.02.gate_up", 7).replace("block.03.q")
    changed, _ = transform(load_model(graph), maker.plan())
    (tmp_path / "out").mkdir()
    write_model(changed, tmp_path / "out")
    for steps in (None, (4, 1, 6)):
        assert worst(run_onnx(tmp_path / "out" / "model.onnx", IDS, steps), maker.expected().logits(IDS)) < 1e-4


def test_attention_and_mlp_packed_together_hold_q_k_v_head_by_head() -> None:
    """Falcon: parallel branches behind one norm."""
    x, weight = ir.Value(name="x"), ir.Value(name="weight")
    packed = ir.Node("", "MatMul", [x, weight])
    split = ir.Node("", "Split", [packed.outputs[0]], num_outputs=2)
    scopes = [f"['transformer.h.3', 'transformer.h.3.{module}']" for module in ("self_attention", "mlp.act")]
    readers = [ir.Node("", op, [part], metadata_props={SCOPES: text})
               for op, part, text in zip(("Reshape", "Gelu"), split.outputs, scopes, strict=True)]
    assert (DIALECT.block_of(packed), DIALECT.roles_of(packed)) == (3, ("q", "k", "v", "up"))
    assert DIALECT.interleaves(packed)
    readers[0].metadata_props[SCOPES] = scopes[1]
    assert DIALECT.roles_of(packed) == ("gate", "up")
    assert not DIALECT.interleaves(packed)


def test_a_bias_that_an_activation_adds_is_the_linears() -> None:
    x, weight, bias = ir.Value(name="x"), *(
        ir.Value(name=name, shape=ir.Shape(shape), const_value=ir.tensor(np.zeros(shape, np.float32)))
        for name, shape in (("weight", (4, 8)), ("bias", (8,))))
    linear = ir.Node("", "MatMul", [x, weight])
    activation = ir.Node("com.microsoft", "BiasGelu", [linear.outputs[0], bias])
    graph = ir.Graph([x], activation.outputs, nodes=[linear, activation], initializers=[weight, bias])
    assert graph.initializers["bias"] is bias
    assert biases_of(linear) == ((activation, 1),)
