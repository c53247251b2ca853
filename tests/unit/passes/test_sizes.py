"""Sizes that a graph computes from the width of what it cuts: as torch.chunk comes out of older exporters."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from foldrank.passes.columns import Narrowing, Part
from foldrank.passes.sizes import size_of

WIDTH, CHANNELS, KEPT = 3, 5, (0, 2, 3)


def chunked(first: np.ndarray, down: np.ndarray, *, index: int = -1) -> onnx.ModelProto:
    """x @ first, cut in two by sizes asked of its shape, the halves multiplied, @ down."""
    numbers = {"last": [index], "zero": [0], "one": [1], "two": [2]}
    nodes = [
        ("MatMul", ["x", "first"], "both"), ("Shape", ["both"], "shape"), ("Gather", ["shape", "last"], "size"),
        ("Add", ["size", "one"], "more"), ("Div", ["more", "two"], "half"), ("Mul", ["half", "one"], "middle"),
        ("Mul", ["half", "two"], "end"), ("Slice", ["both", "zero", "middle", "last"], "gate"),
        ("Slice", ["both", "middle", "end", "last"], "up"), ("Mul", ["gate", "up"], "read"),
        ("MatMul", ["read", "down"], "y")]
    made = [helper.make_node(kind, inputs, [output], name=output) for kind, inputs, output in nodes]
    weights = [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in numbers.items()]
    weights += [numpy_helper.from_array(first, "first"), numpy_helper.from_array(down, "down")]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "tokens", WIDTH]) for name in "xy"]
    graph = helper.make_graph(made, "chunked", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("index", [-1, 2])
def test_halves_of_a_computed_size_follow_a_narrower_mlp(index: int) -> None:
    draw = np.random.default_rng(0)
    first = draw.standard_normal((WIDTH, 2 * CHANNELS), dtype=np.float32)
    down = draw.standard_normal((CHANNELS, WIDTH), dtype=np.float32)
    x = draw.standard_normal((2, 4, WIDTH), dtype=np.float32)
    columns = [*KEPT, *(CHANNELS + c for c in KEPT)]
    model = ir.from_proto(chunked(first[:, columns], down[list(KEPT)], index=index))
    nodes = {node.name: node for node in model.graph}
    narrowing = Narrowing(model.graph, nodes["y"], 0, "test")
    narrowing.follow(nodes["both"].outputs[0], (Part(CHANNELS, KEPT), Part(CHANNELS, KEPT)))
    assert narrowing.reasons == []
    narrowing.apply()
    assert [ir.convenience.get_const_tensor(nodes[name].inputs[slot]).numpy().tolist()  # type: ignore[union-attr]
            for name in ("gate", "up") for slot in (1, 2)] == [[0], [3], [3], [6]]
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    gate, up = (x @ first[:, start : start + CHANNELS] for start in (0, CHANNELS))
    wanted = (gate * up)[..., list(KEPT)] @ down[list(KEPT)]
    np.testing.assert_allclose(session.run(None, {"x": x})[0], wanted, rtol=1e-5)


def test_a_size_of_something_else_is_not_known() -> None:
    first, down = np.ones((WIDTH, 10), np.float32), np.ones((CHANNELS, WIDTH), np.float32)
    graph = ir.from_proto(chunked(first, down, index=1)).graph
    values = {value.name: value for node in graph for value in node.outputs}
    assert size_of(values["middle"], {values["both"]: 10}) is None, "of the tokens"
    assert size_of(values["gate"], {values["both"]: 10}) is None
    graph = ir.from_proto(chunked(first, down)).graph
    values = {value.name: value for node in graph for value in node.outputs}
    assert size_of(values["middle"], {values["both"]: 10}) == [5]
    assert size_of(values["end"], {values["both"]: 9}) == [10]
    assert size_of(values["middle"], {}) is None
