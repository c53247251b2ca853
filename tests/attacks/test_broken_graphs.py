"""Graphs that are broken or made to hurt: refused with UnsafeModel, soon and in little memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import pytest
from hostile_graphs import entry, refused
from onnx import TensorProto, helper
from operator_table import table

from foldrank.errors import UnsafeModel
from foldrank.graph.safe import schemas
from foldrank.graph.safe.load import load_model


def _add_key(model: onnx.ModelProto, key: str, value: str = "1") -> None:
    model.graph.initializer[0].external_data.add(key=key, value=value)


def _overlap(model: onnx.ModelProto, same: bool) -> None:
    first, second = model.graph.initializer[2], model.graph.initializer[3]
    del second.external_data[:]
    second.external_data.extend(first.external_data)
    del second.dims[:]
    second.dims.extend(first.dims)
    if not same:
        next(e for e in second.external_data if e.key == "offset").value = str(int(entry(model, "offset", 2).value) + 4)


def _function(model: onnx.ModelProto) -> None:
    calls = helper.make_node("F", ["x"], ["y"])
    model.functions.append(helper.make_function("", "F", ["x"], ["y"], [calls], [helper.make_opsetid("", 22)]))


def _cycle(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Sub")
    node.input[0] = next(n for n in reversed(model.graph.node) if n.op_type == "MatMul").output[0]


def _first(model: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == operator)


def _attribute(model: onnx.ModelProto, name: str, value: object) -> onnx.AttributeProto:
    node = _first(model, "Gather")
    node.ClearField("attribute")
    node.attribute.append(helper.make_attribute(name, value))
    return node.attribute[0]


def _set(path: str, value: object) -> Callable[[onnx.ModelProto], object]:
    *parents, last = path.split(".")

    def change(model: onnx.ModelProto) -> None:
        target: object = model
        for parent in parents:
            target = target[int(parent)] if parent.lstrip("-").isdigit() else getattr(target, parent)  # type: ignore[index]
        setattr(target, last, value)
    return change


BROKEN = {
    "past the end": (lambda m: setattr(entry(m, "offset", 0), "value", "999999999"), "truncated"),
    "size against shape": (lambda m: m.graph.initializer[2].dims.append(2), "needs"),
    "shape overflow": (lambda m: m.graph.initializer[2].dims.extend([1 << 62, 1 << 62]), "not possible"),
    "negative shape": (lambda m: m.graph.initializer[2].dims.append(-1), "not possible"),
    "dtype": (_set("graph.initializer.2.data_type", 99), "data type"),
    "string tensor": (_set("graph.initializer.2.data_type", TensorProto.STRING), "data type"),
    "key twice": (lambda m: _add_key(m, "offset"), "stands twice"),
    "unknown key": (lambda m: _add_key(m, "basepath"), "unknown"),
    "raw and external": (_set("graph.initializer.2.raw_data", b"1234"), "inline and external"),
    "float and external": (lambda m: m.graph.initializer[2].float_data.append(1), "inline and external"),
    "overlap": (lambda m: _overlap(m, False), "share bytes"),
    "same range": (lambda m: _overlap(m, True), "share bytes"),
    "not marked external": (_set("graph.initializer.2.data_location", 0), "not marked"),
    "function": (_function, "functions"),
    "initializer twice": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "twice"),
    "value twice": (lambda m: m.graph.node.append(m.graph.node[0]), "taken before"),
    "cycle": (_cycle, "cycle"),
    "no opset": (lambda m: m.ClearField("opset_import"), "no opset"),
    "opset 0": (_set("opset_import.0.version", 0), "opset 0"),
    "opset 9999": (_set("opset_import.0.version", 9999), "opset 9999"),
    "opset beyond 31 bits": (_set("opset_import.0.version", 1 << 31), "opset 2147483648"),
    "opset twice": (lambda m: m.opset_import.append(m.opset_import[0]), "twice"),
    "domain": (_set("opset_import.1.domain", "evil"), "evil"),
    "node domain": (_set("graph.node.3.domain", "ai.onnx.ml"), "not allowed"),
    "ir version": (_set("ir_version", 99), "IR version"),
    "no graph": (lambda m: m.ClearField("graph"), "empty"),
    "doc string": (_set("doc_string", "x" * (60 << 20)), "text of"),
    "node doc string": (_set("graph.node.0.doc_string", "x" * (2 << 20)), "text of"),
    "long name": (_set("graph.node.0.name", "x" * (2 << 20)), "text of"),
    "packed integers": (lambda m: m.graph.node[0].attribute[0].t.int64_data.extend([1] * (5 << 20)), "packed"),
    "many nodes": (lambda m: m.graph.node.extend([onnx.NodeProto()] * 700_000), "fields"),
    "sparse": (lambda m: m.graph.sparse_initializer.add(), "sparse"),
    "training": (lambda m: m.training_info.add(), "training"),
    "output nobody makes": (_set("graph.output.0.name", "nothing"), "outputs"),
    "attribute twice": (lambda m: m.graph.node[0].attribute.append(m.graph.node[0].attribute[0]), "attribute"),
    "inline size": (_set("graph.node.0.attribute.0.t.raw_data", b"123"), "needs"),
    "external attribute": (_set("graph.node.0.attribute.0.t.data_location", 1), "not an initializer"),
    "unknown operator": (_set("graph.node.3.op_type", "Evil"), "operator 'Evil' is not known"),
    "unknown operator of com.microsoft": (lambda m: m.graph.node.append(helper.make_node(
        "Evil", [], ["evil"], domain="com.microsoft")), "operator 'Evil' is not known"),
    "unknown attribute": (lambda m: _attribute(m, "evil", 1), "has no attribute 'evil'"),
    "attribute of another type": (lambda m: _attribute(m, "axis", "x"), "is STRING, not INT"),
    "attribute of a function": (lambda m: setattr(_attribute(m, "axis", 0), "ref_attr_name", "a"), "of a function"),
    "no attribute where one must be": (lambda m: m.graph.node.append(helper.make_node("Cast", ["input_ids"], ["evil"])),
                                       "lacks the attribute 'to'"),
    "too many inputs": (lambda m: _first(m, "MatMul").input.append("input_ids"), "has 3 inputs, its operator"),
    "too few inputs": (lambda m: _first(m, "MatMul").ClearField("input"), "has 0 inputs"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_refuses_models(model: onnx.ModelProto, tmp_path: Path, name: str) -> None:
    change, match = BROKEN[name]
    change(model)
    refused(model, tmp_path, match)


def test_refuses_every_truncation(model: onnx.ModelProto, tmp_path: Path) -> None:
    data = model.SerializeToString()
    for length in [0, 1, 2, *range(3, len(data), max(1, len(data) // 150)), len(data) - 1]:
        refused(data[:length], tmp_path, "model.onnx")


def test_survives_flipped_bytes(model: onnx.ModelProto, tmp_path: Path) -> None:
    """Whatever a damaged file is, it is a model or an UnsafeModel."""
    data, rng = model.SerializeToString(), np.random.default_rng(0)
    for _ in range(300):
        spoiled = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            spoiled[at] = rng.integers(0, 256)
        (tmp_path / "model.onnx").write_bytes(bytes(spoiled))
        try:
            load_model(tmp_path / "model.onnx")
        except UnsafeModel:
            continue


def test_refuses_deep_nesting(model: onnx.ModelProto, tmp_path: Path) -> None:
    inner = onnx.GraphProto()
    for _ in range(40):
        outer = onnx.GraphProto()
        node = outer.node.add(op_type="If")
        attribute = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
        attribute.g.CopyFrom(inner)
        inner = outer
    model.graph.node[0].attribute.add(name="g", type=onnx.AttributeProto.GRAPH).g.CopyFrom(inner)
    refused(model, tmp_path, "deeper")


@pytest.mark.parametrize("name", ["doc string", "packed integers", "many nodes"])
def test_memory_stays_bounded(model: onnx.ModelProto, tmp_path: Path, name: str) -> None:
    """256 MiB over start-up, measured in a child as the peak of resident memory."""
    BROKEN[name][0](model)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    program = (
        "import resource, sys\nfrom foldrank.errors import UnsafeModel\n"
        "from foldrank.graph.safe.load import load_model\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nbefore = peak()\n"
        "try: load_model(sys.argv[1])\nexcept UnsafeModel: print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "model.onnx")], capture_output=True, text=True,
                          check=True)
    assert int(done.stdout) < 256 << 10


def test_nodes_out_of_order_are_put_in_order(model: onnx.ModelProto, tmp_path: Path) -> None:
    wanted = [node.name for node in load_model(tmp_path / "model.onnx").graph]
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    found = list(load_model(tmp_path / "model.onnx").graph)
    assert sorted(node.name or "" for node in found) == sorted(name or "" for name in wanted)
    place = {node: number for number, node in enumerate(found)}
    made = [(v.producer(), n) for n in found for v in n.inputs if v is not None]
    assert all(place[maker] < place[reader] for maker, reader in made if maker is not None)


def test_the_table_of_operators_is_that_of_the_onnx_runtime_here() -> None:
    held = resources.files("foldrank.graph.safe") / schemas.FILE
    assert held.read_text() == table()


def test_a_layer_norm_older_than_the_standard_s_is_known() -> None:
    assert schemas.schema_of("", "LayerNormalization", 14) is not None
    assert schemas.schema_of("", "GroupNormalization", 14) is None
