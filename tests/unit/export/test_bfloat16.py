"""Arithmetic in bfloat16 inside an fp32 graph: the same numbers as PyTorch's, from kernels that the CPU has."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from foldrank.export.bfloat16 import compute_in_fp32, without_kernel

torch = pytest.importorskip("torch")
SLOPES = np.array([0.7, 0.43, 0.21], dtype=ml_dtypes.bfloat16)


def graph(*operators: str) -> onnx.ModelProto:
    """y = the operators one after the other on bfloat16(x) and slopes, as fp32."""
    names = ["rounded", *(f"value_{i}" for i in range(len(operators)))]
    nodes = [helper.make_node("Cast", ["x"], ["rounded"], name="rounds", to=TensorProto.BFLOAT16),
             *(helper.make_node(op, ["slopes", names[i]], [names[i + 1]], name=f"{op}_{i}")
               for i, op in enumerate(operators)),
             helper.make_node("Cast", [names[-1]], ["y"], name="widens", to=TensorProto.FLOAT)]
    slopes = helper.make_tensor("slopes", TensorProto.BFLOAT16, SLOPES.shape, SLOPES.tobytes(), raw=True)
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in
             (("x", ["n", 1]), ("y", ["n", 3]))]
    made = helper.make_graph(nodes, "arithmetic", *ports, [slopes])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_sums_and_products_are_rounded_as_pytorch_rounds_them() -> None:
    model = ir.from_proto(graph("Mul", "Add", "Sub", "Div"))
    assert without_kernel(model.graph) is not None
    compute_in_fp32(model.graph)
    assert without_kernel(model.graph) is None
    rewritten = ir.to_proto(model)
    onnx.checker.check_model(rewritten, full_check=True)
    x = np.random.default_rng(0).standard_normal((500, 1)).astype(np.float32) * 300
    found = ort.InferenceSession(rewritten.SerializeToString()).run(None, {"x": x})[0]
    slopes, rounded = torch.from_numpy(SLOPES.astype(np.float32)).bfloat16(), torch.from_numpy(x).bfloat16()
    wanted = (slopes / (slopes - (slopes + slopes * rounded))).float().numpy()
    np.testing.assert_array_equal(found, wanted)
    exact = SLOPES.astype(np.float32)
    assert (found != exact / (exact - (exact + exact * x))).mean() > 0.9


def test_what_has_no_kernel_is_named_and_stays() -> None:
    model = ir.from_proto(graph("Mul", "Mod"))
    compute_in_fp32(model.graph)
    assert getattr(without_kernel(model.graph), "name", None) == "Mod_1"


def test_a_graph_without_bfloat16_stays_as_it_is() -> None:
    plain = graph("Mul")
    plain.graph.node[0].attribute[0].i = TensorProto.FLOAT
    plain.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(SLOPES.astype(np.float32), "slopes"))
    model = ir.from_proto(plain)
    compute_in_fp32(model.graph)
    assert [node.op_type for node in model.graph] == ["Cast", "Mul", "Cast"]
