"""Norms merged with the sum before them: taken apart where blocks correspond only so, else left as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from anonymous import strip_names
from onnx import TensorProto, helper
from synthetic import Decoder, PlanMaker, Shape, random_decoder, run_onnx, worst, write_graph

from foldrank.errors import GraphNotRecognized
from foldrank.graph.invariants import check_file
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.graph.view.skip_norms import take_apart
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.verbs.inspect import inspect

IDS = np.random.default_rng(1).integers(0, 50, 11)
Change = Callable[[onnx.ModelProto], object]


def decoder(*, biased: bool) -> Decoder:
    """Six blocks; biases of o and down too, where `biased`."""
    made = random_decoder(Shape(blocks=6), seed=1)
    for i, block in enumerate(made.blocks if biased else ()):
        for role in ("o", "down"):
            block[f"bias.{role}"] = np.random.default_rng(i).standard_normal(48).astype(np.float32)
    return made


def dense(folder: Path, source: Decoder, change: Change = lambda proto: None) -> Path:
    write_graph(source, folder / "model.onnx")
    proto = onnx.load(folder / "model.onnx")
    change(proto)
    (folder / "model.onnx.data").unlink()
    onnx.save(proto, folder / "model.onnx")
    return folder / "model.onnx"


def proved(graph: Path, source: Decoder, folder: Path) -> Counter[str]:
    """Every kind of plan computes what it says; the operators that the last graph has."""
    plans: dict[str, Callable[[PlanMaker], object]] = {
        "empty": lambda m: m,
        "start": lambda m: m.fold((0, 1), {0: 0.0, 1: 1.0}, norms="top"),
        "end": lambda m: m.fold((3, 4, 5), {3: 0.5, 4: 0.25, 5: 0.25}, into=5),
        "both": lambda m: m.fold((2, 3), {2: 0.5, 3: 0.5}).low_rank("block.02.down", 7).low_rank("block.05.o", 9),
    }
    for name, edit in plans.items():
        maker = PlanMaker(source, "0" * 64)
        edit(maker)
        changed, _ = transform(load_model(graph), maker.plan())
        (folder / name).mkdir()
        write_model(changed, folder / name)
        check_file(folder / name / "model.onnx", name)
        for steps in (None, (4, 1, 6)):
            assert worst(run_onnx(folder / name / "model.onnx", IDS, steps), maker.expected().logits(IDS)) < 1e-4
    return Counter(node.op_type for node in changed.graph)


def merge_biases(proto: onnx.ModelProto) -> None:
    """As ort_fusions do: the branch's bias goes into the norm that follows, which is the next block's."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    for norm in proto.graph.node:
        if norm.op_type.startswith("Skip") and makers[norm.input[1]].op_type == "Add":
            added = makers[norm.input[1]]
            norm.input[1] = added.input[0]
            norm.input.append(added.input[1])
            proto.graph.node.remove(added)


def swap_one(proto: onnx.ModelProto) -> None:
    norm = next(n for n in proto.graph.node if n.name == "/model/layers.2/input_layernorm/SkipLayerNorm")
    norm.input[0], norm.input[1] = norm.input[1], norm.input[0]


def part_all_but_last(proto: onnx.ModelProto) -> None:
    """As ort_fusions leave a family without a norm before its branches: the final norm alone is merged."""
    for norm in [n for n in proto.graph.node if n.op_type.startswith("Skip")][:-1]:
        owner = norm.input[1].rpartition("/")[0]
        place = list(proto.graph.node).index(norm)
        total = helper.make_node("Add", norm.input[:2], [norm.output[3]], f"{owner}/sum")
        plain = helper.make_node("SimplifiedLayerNormalization", [norm.output[3], norm.input[2]], norm.output[:1],
                                 norm.name, epsilon=norm.attribute[0].f, axis=-1)
        proto.graph.node.remove(norm)
        proto.graph.node.insert(place, plain)
        proto.graph.node.insert(place, total)


def test_a_sum_is_like_those_that_were_not_merged(tmp_path: Path) -> None:
    source = decoder(biased=False)
    operators = proved(dense(tmp_path, source, part_all_but_last), source, tmp_path)
    assert operators["SkipSimplifiedLayerNormalization"] == 0


def test_a_graph_whose_blocks_correspond_stays_as_it_is(tmp_path: Path) -> None:
    source = decoder(biased=True)
    operators = proved(dense(tmp_path, source), source, tmp_path)
    assert operators["SkipSimplifiedLayerNormalization"] == 2 * 5
    _, receipts = transform(load_model(tmp_path / "model.onnx"), PlanMaker(source, "0" * 64).plan())
    assert not any(receipt.changes for receipt in receipts if receipt.name == "split_norms")


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(("change", "biased"), [(merge_biases, True), (swap_one, False)])
def test_blocks_that_correspond_only_apart_are_edited_apart(
    tmp_path: Path, change: Change, biased: bool, named: bool
) -> None:
    source = decoder(biased=biased)
    graph = dense(tmp_path, source, change)
    operators = proved(graph if named else strip_names(graph, tmp_path / "bare" / "model.onnx"), source, tmp_path)
    assert operators["SkipSimplifiedLayerNormalization"] == 0
    assert operators["SimplifiedLayerNormalization"] == 2 * 5 + 1
    _, receipts = transform(load_model(tmp_path / "model.onnx"), PlanMaker(source, "0" * 64).plan())
    assert [len(receipt.changes) for receipt in receipts if receipt.name == "split_norms"] == [2 * 6]


def test_inspect_reads_what_cannot_be_read_merged(tmp_path: Path) -> None:
    graph = dense(tmp_path, decoder(biased=False), swap_one)
    with pytest.raises(GraphNotRecognized):
        read_decoder(load_model(graph))
    assert inspect(graph)["block_numbers"] == list(range(6))


@pytest.mark.parametrize("operator", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outputs", [["y"], ["y", "", "", "sum"]])
def test_apart_it_computes_the_same(operator: str, bias: bool, outputs: list[str]) -> None:
    rng = np.random.default_rng(0)
    own = ["gain", "beta"] if operator == "SkipLayerNormalization" else ["gain"]
    tensors = [helper.make_tensor(name, TensorProto.FLOAT, [8], rng.standard_normal(8).astype(np.float32))
               for name in (*own, *(["bias"] if bias else []))]
    parameters = [t.name for t in tensors]
    nodes = [helper.make_node(operator, [*read, *parameters], made, name, domain="com.microsoft", epsilon=1e-3)
             for read, made, name in ((["x", "skip"], ["first"], "one"), (["first", "x"], outputs, "other"))]
    shape = ["batch", "length", 8]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "skip")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs if name], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    model = ir.from_proto(proto)
    assert [norm.op_type for norm in take_apart(model.graph)] == [operator.removeprefix("Skip")] * 2
    feed = {name: rng.standard_normal((2, 3, 8)).astype(np.float32) for name in ("x", "skip")}
    merged, apart = (ort.InferenceSession(p.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)
                     for p in (proto, ir.to_proto(model)))
    for one, other in zip(merged, apart, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_what_training_reads_stays_merged() -> None:
    """The mean is an output that a plain norm has not in this form."""
    x, skip, gain = (ir.Value(name=name) for name in ("x", "skip", "gain"))
    node = ir.Node("com.microsoft", "SkipLayerNormalization", [x, skip, gain], num_outputs=2)
    graph = ir.Graph([x, skip, gain], list(node.outputs), nodes=[node], opset_imports={"": 20, "com.microsoft": 1})
    assert take_apart(graph) == ()
