"""Graphs as other tools leave them: names replaced or gone, metadata gone, optimised and saved by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import onnx


def strip_names(source: Path, target: Path, numbered: bool = False) -> Path:
    """Every name but those of inputs and outputs replaced, all metadata gone. `numbered`: nodes are n_0, n_1, ..."""
    model = onnx.load(source)
    graph = model.graph
    names = {v.name: v.name for v in (*graph.input, *graph.output)} | {"": ""}

    def other(name: str) -> str:
        return names.setdefault(name, f"v{len(names)}")

    for i, node in enumerate(graph.node):
        node.name = f"n_{i}" if numbered else ""
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        node.input[:] = map(other, node.input)
        node.output[:] = map(other, node.output)
    for entry in (*graph.initializer, *graph.value_info):
        entry.name = other(entry.name)
        entry.ClearField("metadata_props")
    model.ClearField("metadata_props")
    graph.ClearField("metadata_props")
    graph.name = "graph"
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, target)
    return target


def optimised(source: Path, target: Path) -> Path:
    """What ONNX Runtime saves of the graph after its basic optimisations."""
    import onnxruntime as ort

    target.parent.mkdir(parents=True, exist_ok=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return target
