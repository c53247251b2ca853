"""The precision is the graph's own; widened, a graph of two bytes computes the same in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from foldrank.graph.accuracy import in_float32
from foldrank.graph.precision import floats_of, precision_of
from foldrank.graph.safe.load import load_model

pytest.importorskip("onnxruntime")
WEIGHT = np.random.default_rng(0).normal(size=(8, 4))


def written(path: Path, kind: int) -> Path:
    """y = (x W + 1/3) in these floats, the third a Constant, behind a Cast."""
    numbers = helper.make_tensor("w", kind, (8, 4), WEIGHT.ravel())
    third = helper.make_tensor("t", kind, (1,), [1 / 3])
    nodes = [helper.make_node("Cast", ["x"], ["c"], to=kind), helper.make_node("MatMul", ["c", "w"], ["m"]),
             helper.make_node("Constant", [], ["third"], value=third), helper.make_node("Add", ["m", "third"], ["y"])]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 8]),
             helper.make_tensor_value_info("y", kind, [None, 4])]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [numbers])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.mark.parametrize(("kind", "name"), [
    (TensorProto.FLOAT, "fp32"), (TensorProto.FLOAT16, "fp16"), (TensorProto.BFLOAT16, "bf16")])
def test_a_widened_graph_computes_with_its_numbers_as_stored(kind: int, name: str, tmp_path: Path) -> None:
    import onnxruntime

    path = written(tmp_path / "g.onnx", kind)
    model = load_model(path)
    assert (floats_of(model), precision_of(model)) == (name, name)
    x = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    (found,) = onnxruntime.InferenceSession(in_float32(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    proto = onnx.load(path).graph
    stored, third = (numpy_helper.to_array(tensor).astype(np.float64)
                     for tensor in (proto.initializer[0], proto.node[2].attribute[0].t))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, x @ stored + third, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("level", "name"), [(4, "int8"), (0, "fp32")])
def test_products_that_round_activations_make_it_int8(level: int, name: str, tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    node = helper.make_node("MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", K=32, N=2, bits=4,
                            block_size=32, accuracy_level=level)
    ports = [helper.make_tensor_value_info(port, TensorProto.FLOAT, [None, n]) for port, n in (("x", 32), ("y", 2))]
    held = [numpy_helper.from_array(np.zeros((2, 1, 16), np.uint8), "b"),
            numpy_helper.from_array(np.ones((2, 1), np.float32), "s")]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], held)
    onnx.save(helper.make_model(graph, opset_imports=[
        helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)], ir_version=10), path)
    assert precision_of(load_model(path)) == name
    widened = onnx.load_from_string(in_float32(path)).graph.node[0]
    assert next(a.i for a in widened.attribute if a.name == "accuracy_level") == 0
