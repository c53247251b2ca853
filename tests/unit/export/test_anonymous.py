"""Axes under their common names, and no trace of the machine, whatever an exporter wrote."""

import onnx
from onnx import TensorProto, helper

from foldrank import __version__
from foldrank.export.anonymous import make_anonymous, name_axes


def traced() -> onnx.ModelProto:
    """Ports as torch.export names their axes, an intermediate value, and what it tells of the machine."""
    def port(name: str, *dims: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)

    inputs = [port("input_ids", "s24", "s70"), port("attention_mask", "s24", "s70 + s9"),
              port("past_key_values.0.key", "s24", 2, "s9", 16)]
    outputs = [port("logits", "s24", "s70", 256), port("present.0.key", "s24", 2, "s9 + s70", 16)]
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["y"], doc_string="/home/me/model.py")], "b", [],
                              [port("y", 1)])
    node = helper.make_node("If", ["c"], ["logits"], then_branch=inner, else_branch=inner)
    for holder in (node, node.attribute[0].g.node[0]):
        holder.metadata_props.add(key="pkg.torch.onnx.stack_trace", value='File "/home/me/model.py", line 3')
        holder.metadata_props.add(key="namespace", value="model.layers.0")
    graph = helper.make_graph([node], "g", inputs, outputs, value_info=[port("mid", "s24", "s70 + s9", "s1")])
    return helper.make_model(graph, producer_name="onnxruntime-genai", producer_version="0.18+c0ffee")


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_axes_are_named_for_consumers_and_sizes_stay() -> None:
    graph = traced().graph
    name_axes(graph)
    assert {p.name: dims(p) for p in (*graph.input, *graph.output, *graph.value_info)} == {
        "input_ids": ["batch_size", "sequence_length"],
        "attention_mask": ["batch_size", "total_sequence_length"],
        "past_key_values.0.key": ["batch_size", 2, "past_sequence_length", 16],
        "logits": ["batch_size", "sequence_length", 256],
        "present.0.key": ["batch_size", 2, "total_sequence_length", 16],
        "mid": ["batch_size", "sequence_length + past_sequence_length", "s1"],
    }


def test_nothing_tells_the_machine_and_what_dialects_read_stays() -> None:
    model = traced()
    make_anonymous(model)
    data = model.SerializeToString()
    assert b"/home/me" not in data
    assert b"c0ffee" not in data
    assert (model.producer_name, model.producer_version) == ("foldrank", __version__)
    assert data.count(b"model.layers.0") == 2
