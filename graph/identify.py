"""What an ONNX graph is, told from its inputs and operators, where it is not a decoder with a cache of pairs."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from foldrank.errors import GraphNotRecognized

_ENCODER_INPUTS = ("encoder_hidden_states", "encoder_attention_mask", "decoder_input_ids", "encoder_outputs")
_QUANTISED = ("QLinearMatMul", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention",
              "DynamicQuantizeLinear", "QuantizeLinear")
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_CACHE_RANK = 5
"""K and V in one tensor: [2, batch, heads, past, head size], or with batch first."""


def refuse_others(model: ir.Model, where: object) -> None:
    """Raise GraphNotRecognized with what the graph is and what to do, unless it may be a decoder that we read."""
    if found := next(_kinds(model.graph), None):
        raise GraphNotRecognized(where, *found)


def _kinds(graph: ir.Graph) -> Iterator[tuple[str, str]]:
    names = [value.name or "" for value in graph.inputs]
    if "use_cache_branch" in names or any(node.op_type == "If" and _computes(node) for node in graph):
        yield ("is a merged graph: an If chooses between two decoders, with and without cache",
               "give the graph with cache alone: optimum-onnx 0.1, --task text-generation-with-past")
    if found := next((name for name in names if name in _ENCODER_INPUTS or ".encoder." in name), None):
        yield f"is of an encoder-decoder model: it has the input {found}", "give a decoder-only model's graph"
    if found := next((name for name in names if name in ("pixel_values", "input_features", "image_features")), None):
        yield f"is of a multimodal model: it has the input {found}", "give the text decoder's graph"
    for value in graph.inputs:
        if value.shape is not None and len(value.shape) == _CACHE_RANK:
            yield (f"its cache holds K and V in one tensor ({value.name}, {len(value.shape)} axes)",
                   "export it with one input for keys and one for values: past_key_values.N.key/.value")
    if halved := next(filter(_halved, graph.inputs), None):
        yield (f"computes in half precision inside fp32 inputs and outputs: a Cast behind {halved.name}",
               "give the fp32 graph, or convert its inputs and outputs too (keep_io_types=False), and --dtype fp16")
    if node := next((node for node in graph if node.op_type in _QUANTISED), None):
        yield f"is a quantised graph: it has {node.op_type} ({node.name})", "give the graph from before quantising"


def _halved(value: ir.Value) -> bool:
    """Whether an fp32 cache is rounded to two bytes before anything else is done with it."""
    readers = [node for node in value.consumers() if node.op_type != "Shape"]
    return value.dtype == ir.DataType.FLOAT and bool(readers) and all(
        node.op_type == "Cast" and node.attributes["to"].as_int() in _HALVES for node in readers)


def _computes(node: ir.Node) -> bool:
    """Whether a branch multiplies matrices: a decoder, not a choice between shapes."""
    graphs = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    return any(inner.op_type in ("MatMul", "Gemm") for graph in graphs for inner in graph)
