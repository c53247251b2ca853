"""Laws every graph keeps between passes, and a few more when it is finished. A broken one is our bug."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import onnx
import onnx_ir as ir

from foldrank.errors import InvariantBroken
from foldrank.graph.dataflow.cache import kv_pairs


def check_graph(model: ir.Model, stage: str, *, finished: bool = False) -> None:
    """Ask every law of the graph in memory. Raises InvariantBroken, naming the stage after which it broke."""
    laws = [*_laws(model.graph)] + ([*_finished(model.graph)] if finished else [])
    if found := list(islice(laws, 5)):
        raise InvariantBroken(stage, " | ".join(found), "report this as a bug of foldrank")
    kv_pairs(model.graph, stage)


def unknown_ports(graph: ir.Graph) -> list[str]:
    """Inputs and outputs that a bundle has not, and a lack of logits."""
    known = {v.name for pair in kv_pairs(graph, "graph") for v in (*pair.past, *pair.present)}
    inputs = {str(v.name) for v in graph.inputs if v.name not in known}
    outputs = {str(v.name) for v in graph.outputs if v.name not in known}
    return sorted(inputs - {"input_ids", "attention_mask", "position_ids"}) + sorted(outputs ^ {"logits"})


def check_file(path: Path, stage: str) -> None:
    """ONNX's own checker and shape inference over a written graph; weights are not read. Raises InvariantBroken."""
    model = onnx.load(str(path), load_external_data=False)
    _make_checkable(model)
    try:
        onnx.checker.check_model(model, check_custom_domain=False)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InvariantBroken(stage, str(error).splitlines()[0], "report this as a bug of foldrank") from None


def _make_checkable(model: onnx.ModelProto) -> None:
    """What the checker cannot know: ONNX Runtime's own operators in the standard domain, and data in another file."""
    graph = model.graph
    for node in graph.node:
        if not node.domain and not onnx.defs.has(node.op_type):
            node.domain = "com.microsoft"
    outside = [t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in outside:
        graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    kept = [t for t in graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _laws(graph: ir.Graph) -> Iterator[str]:
    known = {id(v) for v in graph.inputs} | {id(v) for v in graph.initializers.values()}
    names = [v.name for v in graph.inputs] + list(graph.initializers)
    for node in graph:
        for value in node.inputs:
            if value is not None and id(value) not in known:
                yield f"{node.name} reads {value.name}, which nothing before it makes"
        known.update(id(v) for v in node.outputs)
        names.extend(v.name for v in node.outputs if v.name)
    if len(set(names)) != len(names):
        yield f"names stand twice: {sorted({str(n) for n in names if names.count(n) > 1})[:3]}"
    for output in graph.outputs:
        if id(output) not in known:
            yield f"nothing makes the output {output.name}"
    for name, value in graph.initializers.items():
        yield from _initializer(name, value)


def _initializer(name: str, value: ir.Value) -> Iterator[str]:
    tensor = value.const_value
    if name != value.name or tensor is None:
        yield f"initializer {name} has no data, or another name in itself"
    elif value.dtype not in (None, tensor.dtype):
        yield f"initializer {name} is {tensor.dtype}, its value says {value.dtype}"
    elif value.shape is not None and tuple(value.shape) != tuple(tensor.shape):
        yield f"initializer {name} is {list(tensor.shape)}, its value says {list(value.shape)}"


def _finished(graph: ir.Graph) -> Iterator[str]:
    for name, value in graph.initializers.items():
        if not value.uses() and not value.is_graph_output():
            yield f"nothing reads the initializer {name}"
    pairs = kv_pairs(graph, "finished graph")
    if [pair.number for pair in pairs] != list(range(len(pairs))):
        yield f"KV pairs are numbered {[pair.number for pair in pairs]}"
    for value in (*graph.inputs, *graph.outputs):
        if value.type is None or value.shape is None:
            yield f"{value.name} has no type or shape"
    if odd := unknown_ports(graph):
        yield f"inputs or outputs {odd} are not those of a bundle"
