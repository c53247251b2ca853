"""A graph for anybody: axes under their common names, made by foldrank, no trace of the machine it was exported on.

lm-eval binds caches by the names of their axes, transformers.js too. onnxruntime-genai's builder stamps the commit of
whatever repository lies above its package into `producer_version`; torch writes the source lines that a node came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from foldrank import __version__

_SEQUENCE = ("batch_size", "sequence_length")
_AXES = {"input_ids": _SEQUENCE, "position_ids": _SEQUENCE, "attention_mask": ("batch_size", "total_sequence_length"),
         "logits": _SEQUENCE}
_CACHES = {"past_key_values": "past_sequence_length", "present": "total_sequence_length"}
_TRACES = ("pkg.torch.onnx.stack_trace",)
_SYMBOL = re.compile(r"[A-Za-z_]\w*")


def name_axes(graph: Any) -> None:
    """Name the varying axes of a GraphProto's inputs and outputs; one name is one length wherever a shape has it.

    Axes of fixed length stay as they are.
    """
    renamed: dict[str, str] = {}
    for port in (*graph.input, *graph.output):
        dims = port.type.tensor_type.shape.dim
        for axis, name in _names(port.name).items():
            if axis < len(dims) and not dims[axis].HasField("dim_value"):
                if _SYMBOL.fullmatch(dims[axis].dim_param):
                    renamed.setdefault(dims[axis].dim_param, name)
                dims[axis].dim_param = name
    for value in graph.value_info:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = _SYMBOL.sub(lambda found: renamed.get(found[0], found[0]), dim.dim_param)


def _names(port: str) -> dict[int, str]:
    if port in _AXES:
        return dict(enumerate(_AXES[port]))
    length = _CACHES.get(port.partition(".")[0])
    return {} if length is None else {0: "batch_size", 2: length}


def make_anonymous(model: Any) -> None:
    """Write foldrank as the producer of a ModelProto; take out documentation and stack traces."""
    model.producer_name, model.producer_version = "foldrank", __version__
    for holder in (model, model.graph, *model.functions, *_nodes(model.graph),
                   *(node for function in model.functions for node in _nodes(function)),
                   *model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        holder.ClearField("doc_string")
        kept = [(entry.key, entry.value) for entry in holder.metadata_props if entry.key not in _TRACES]
        if len(kept) != len(holder.metadata_props):
            del holder.metadata_props[:]
            for key, value in kept:
                holder.metadata_props.add(key=key, value=value)


def _nodes(graph: Any) -> Iterator[Any]:
    """Nodes of a graph or function and of the graphs in their attributes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
