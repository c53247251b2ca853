"""A graph is told of as onnx and ONNX Runtime tell of it, without a weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from synthetic import Decoder, Shape, random_decoder, write_graph, write_standard

from foldrank.graph.summary import summary_of
from foldrank.ports import Port
from foldrank.runtime.providers.provider import resolve
from foldrank.runtime.sessions.session import open_session


def as_onnx_reads_it(path: Path) -> tuple[Counter[tuple[str, str]], list[str], list[str]]:
    """Operators, inputs and outputs of a graph without inner graphs."""
    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    return (Counter((node.domain, node.op_type) for node in graph.node),
            [value.name for value in graph.input if value.name not in weights], [value.name for value in graph.output])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("write", [write_graph, write_standard])
def test_graphs_of_exporters_are_read_as_onnx_reads_them(
    write: Callable[[Decoder, Path], None], dtype: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    write(random_decoder(Shape(dtype=dtype)), path)
    found = summary_of(path)
    assert (found.operators, list(found.inputs), list(found.outputs)) == as_onnx_reads_it(path)
    wanted = {"float32": "float"}.get(dtype, dtype)
    assert {port.type for name, port in found.inputs.items() if "past" in name} == {f"tensor({wanted})"}


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "llama", "mistral", "opt", "qwen2"])
def test_ports_are_those_of_a_session(family: str, tiny_models: Path) -> None:
    path = tiny_models / family / "optimum" / "model.onnx"
    found, session = summary_of(path), open_session(path, resolve("cpu"), threads=1)
    assert (found.inputs, found.outputs) == (session.inputs, session.outputs)
    assert found.operators == as_onnx_reads_it(path)[0]


def test_a_bundle_names_its_data_file(dense_5m: Path) -> None:
    found = summary_of(dense_5m / "model.onnx")
    assert found.data_files == ("model.onnx.data",)
    assert found.inputs["input_ids"].type == "tensor(int64)"


def test_inner_graphs_count(tmp_path: Path) -> None:
    yes = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, None])]
    deep = helper.make_graph([helper.make_node("FastGelu", ["x"], ["y"], domain="com.microsoft")], "deep", [], yes)
    flat = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "flat", [], yes)
    choice = helper.make_node("If", ["c"], ["y"], then_branch=deep, else_branch=flat)
    inner = helper.make_graph([choice], "inner", [], yes)
    outer = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=flat)
    graph = helper.make_graph(
        [helper.make_node("Abs", ["z"], ["x"]), outer],
        "main", [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3, None])], yes,
        [numpy_helper.from_array(np.array(True), "c")])
    path = tmp_path / "model.onnx"
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    found = summary_of(path)
    assert found.operators == {("", "If"): 2, ("com.microsoft", "FastGelu"): 1, ("", "Neg"): 2, ("", "Abs"): 1}
    assert found.inputs == {"z": Port(("N", 3, None), "tensor(float)")}
