"""Raising the opset: only where ONNX's converter leaves every operator as it is."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from foldrank.errors import PassRefused
from foldrank.passes.opset import raise_opset


def model(opset: int, *nodes: onnx.NodeProto) -> ir.Model:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in ("x", "y")]
    graph = helper.make_graph(list(nodes), "g", ports[:1], ports[1:])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=8))


def test_operators_that_only_take_more_types_stay() -> None:
    wide = [helper.make_node("Cast", ["x"], ["c"], to=TensorProto.FLOAT), helper.make_node("Shape", ["c"], ["s"]),
            helper.make_node("Reshape", ["c", "s"], ["r"]), helper.make_node("Transpose", ["r"], ["t"], perm=[1, 0]),
            helper.make_node("SimplifiedLayerNormalization", ["t"], ["u"]),
            helper.make_node("FastGelu", ["u"], ["y"], domain="com.microsoft")]
    found = model(18, *wide)
    raise_opset(found, 21, "it", "do otherwise")
    assert (found.graph.opset_imports, found.ir_version) == ({"": 21, "com.microsoft": 1}, 10)


def test_a_newer_opset_stays() -> None:
    found = model(22, helper.make_node("Identity", ["x"], ["y"]))
    raise_opset(found, 21, "it", "do otherwise")
    assert (found.graph.opset_imports[""], found.ir_version) == (22, 10)


@pytest.mark.parametrize(("opset", "node"), [
    (17, helper.make_node("ReduceMean", ["x"], ["y"], axes=[1])),
    (17, helper.make_node("Split", ["x"], ["y", "z"], axis=1)),
    (18, helper.make_node("GroupNormalization", ["x", "x", "x"], ["y"], num_groups=2)),
    (16, helper.make_node("GridSample", ["x", "x"], ["y"], mode="bilinear")),
])
def test_an_operator_that_would_mean_another_thing_is_named_and_nothing_changes(
    opset: int, node: onnx.NodeProto
) -> None:
    found = model(opset, helper.make_node("Shape", ["x"], ["s"]), node)
    with pytest.raises(PassRefused, match=f"it needs opset 21, the graph has {opset}, and {node.op_type} differ"):
        raise_opset(found, 21, "it", "do otherwise")
    assert (found.graph.opset_imports[""], found.ir_version) == (opset, 8)


def test_nodes_of_inner_graphs_are_asked() -> None:
    result = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    inner = helper.make_graph([helper.make_node("ReduceMean", ["x"], ["z"], axes=[1])], "inner", [], [result])
    asked = helper.make_node("Cast", ["x"], ["b"], to=TensorProto.BOOL)
    outer = helper.make_node("If", ["b"], ["y"], then_branch=inner, else_branch=inner)
    with pytest.raises(PassRefused, match="ReduceMean"):
        raise_opset(model(17, asked, outer), 21, "it", "do otherwise")
