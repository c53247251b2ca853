"""Graphs as strangers write them: cache names of other tools are read, what cannot be a decoder with cache is named."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from synthetic import Shape, random_decoder, write_graph

from foldrank.errors import GraphNotRecognized
from foldrank.export.ports import _common, fixed_axes
from foldrank.graph.identify import refuse_others


@pytest.mark.parametrize(("name", "common"), [
    ("past_0_key", "past_key_values.0.key"), ("past_key_3", "past_key_values.3.key"),
    ("past_value_3", "past_key_values.3.value"), ("past_key_values_12_value", "past_key_values.12.value"),
    ("present_0_key", "present.0.key"), ("present_value_7", "present.7.value"), ("past_k_1", "past_key_values.1.key"),
    ("past_key_values.2.key", "past_key_values.2.key"), ("past_0", "past_0"), ("present", "present"),
    ("pastry_0_key", "pastry_0_key"),
])
def test_cache_names_of_other_tools_have_a_common_one(name: str, common: str) -> None:
    assert _common(name) == common


@pytest.fixture
def model(tmp_path: Path) -> onnx.ModelProto:
    write_graph(random_decoder(Shape(blocks=2)), tmp_path / "model.onnx")
    return onnx.load(tmp_path / "model.onnx", load_external_data=False)


def test_a_decoder_is_not_refused_and_has_no_fixed_axes(model: onnx.ModelProto) -> None:
    graph = ir.from_proto(model)
    refuse_others(graph, "here")
    assert not list(fixed_axes(graph.graph.inputs))


@pytest.mark.parametrize(("port", "axis", "says"), [
    ("input_ids", 0, "fixed batch 1"), ("input_ids", 1, "fixed sequence 1"),
    ("past_key_values.0.key", 2, "fixed past 1"),
])
def test_a_fixed_axis_is_named(model: onnx.ModelProto, port: str, axis: int, says: str) -> None:
    next(v for v in model.graph.input if v.name == port).type.tensor_type.shape.dim[axis].dim_value = 1
    assert [port in found and says in found for found in fixed_axes(ir.from_proto(model).graph.inputs)] == [True]


@pytest.mark.parametrize(("name", "shape", "says"), [
    ("use_cache_branch", [1], "merged graph"), ("encoder_hidden_states", ["b", "s", 8], "encoder-decoder"),
    ("pixel_values", ["b", 3, 8, 8], "multimodal"), ("past_0", [2, "b", 1, "p", 4], "K and V in one tensor"),
])
def test_what_the_inputs_tell_is_said(model: onnx.ModelProto, name: str, shape: list[int | str], says: str) -> None:
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    with pytest.raises(GraphNotRecognized, match=says):
        refuse_others(ir.from_proto(model), "here")


def test_a_quantised_graph_is_called_one(model: onnx.ModelProto) -> None:
    node = helper.make_node("DynamicQuantizeLinear", ["input_ids"], ["q", "s", "z"], "quantise")
    model.graph.node.append(node)
    with pytest.raises(GraphNotRecognized, match="quantised graph: it has DynamicQuantizeLinear"):
        refuse_others(ir.from_proto(model), "here")
