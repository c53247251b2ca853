"""Laws a parsed ONNX file must keep before it becomes a graph in memory. Each function yields what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from itertools import chain
from pathlib import Path

import onnx

from foldrank.graph.safe.external import Extent, extent, file_size, overlaps, stored_bytes
from foldrank.graph.safe.schemas import schema_of

DOMAINS = ("", "ai.onnx", "com.microsoft")
_DECLARED = frozenset({
    "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training", "com.microsoft.experimental",
    "com.microsoft.nchwc", "com.ms.internal.nhwc", "org.pytorch.aten",
})
"""Domains that ONNX Runtime declares in every graph that it saves, though no operator is of them."""
_TYPED = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def problems(model: onnx.ModelProto, folder: Path) -> Iterator[str]:
    """Everything wrong with a model whose external data lies in `folder`."""
    yield from _header(model)
    yield from _names(model.graph, frozenset())
    imported = {_domain(o.domain): o.version for o in model.opset_import}
    for graph in graphs(model.graph):
        yield from _nodes(graph, imported)
    yield from _tensors(model, folder)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every graph inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from graphs(inner)


def _header(model: onnx.ModelProto) -> Iterator[str]:
    if not 4 <= model.ir_version <= onnx.IR_VERSION:
        yield f"IR version {model.ir_version} is not among 4..{onnx.IR_VERSION}"
    newest = {"": onnx.defs.onnx_opset_version(), "com.microsoft": 1}
    seen: set[str] = set()
    for entry in model.opset_import:
        domain = _domain(entry.domain)
        if entry.domain in _DECLARED and domain not in seen:
            seen.add(domain)
            continue
        if entry.domain not in DOMAINS:
            yield f"operator domain {entry.domain!r:.60} is not allowed (standard and com.microsoft are)"
        elif domain in seen:
            yield f"opset of domain {domain!r} stands twice"
        elif not 1 <= entry.version <= newest[domain]:
            yield f"opset {entry.version} of domain {domain!r} is unknown (at most {newest[domain]})"
        seen.add(domain)
    if "" not in seen:
        yield "no opset of the standard operators: the file may be truncated"
    if model.functions:
        yield "it defines functions of its own; inline them first (onnx.inliner.inline_local_functions)"
    if model.training_info:
        yield "it holds training information"
    if not model.graph.output or not model.graph.node:
        yield "its graph is empty: the file may be truncated"


def _names(graph: onnx.GraphProto, outer: frozenset[str]) -> Iterator[str]:
    """Values are named once, and defined before they are used, which also rules out cycles."""
    known = set(outer)
    made = {name for node in graph.node for name in node.output}
    for name in chain((v.name for v in graph.input), (t.name for t in graph.initializer)):
        if not name or name in known:
            yield f"the name {name!r:.80} is empty or stands twice among inputs and initializers"
        known.add(name)
    for index, node in enumerate(graph.node):
        where = f"node {node.name or index!r}"
        if missing := [name for name in node.input if name and name not in known]:
            yield f"{where} reads {missing[0]!r:.80}, {_why(missing[0], made)}"
        for attribute in node.attribute:
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from _names(inner, frozenset(known))
        for name in node.output:
            if name and name in known:
                yield f"{where} makes {name!r:.80}, a name taken before"
            known.add(name)
    outputs = [v.name for v in graph.output]
    if len(set(outputs)) != len(outputs) or not set(outputs) <= known - {""}:  # a node leaves what is optional unnamed
        yield "its outputs stand twice or nothing makes them"


def _why(name: str, made: set[str]) -> str:
    """Nodes are in order here (order.py) unless they cannot be."""
    return "which is made of what this node makes: a cycle" if name in made else "which nothing makes"


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _nodes(graph: onnx.GraphProto, imported: Mapping[str, int]) -> Iterator[str]:
    named: set[str] = set()
    for index, node in enumerate(graph.node):
        if node.domain not in DOMAINS:
            yield f"operator {node.domain}.{node.op_type} is of a domain that is not allowed"
        elif (domain := _domain(node.domain)) not in imported:
            yield f"operator {node.op_type}: its domain {node.domain!r} has no opset"
        elif (schema := schema_of(domain, node.op_type, imported[domain])) is None:
            yield f"operator {node.op_type!r:.60} is not known in opset {imported[domain]} of domain {domain!r}"
        else:
            yield from (f"node {node.name or index!r} ({node.op_type}): {what}" for what in schema.problems(node))
        if node.name and node.name in named:
            yield f"two nodes have the name {node.name!r:.80}"
        named.add(node.name)
        attributes = [a.name for a in node.attribute]
        if len(set(attributes)) != len(attributes):
            yield f"node {node.name or index!r} has an attribute twice"
    if graph.sparse_initializer:
        yield "it holds sparse initializers"


def _tensors(model: onnx.ModelProto, folder: Path) -> Iterator[str]:
    extents: list[Extent] = []
    size_of = cache(partial(file_size, folder))  # most tensors lie in one file
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                place = extent(tensor, size_of)
                if isinstance(place, str):
                    yield f"{tensor.name:.120}: {place}"
                else:
                    extents.append(place)
            elif problem := _inline(tensor):
                yield f"{tensor.name:.120}: {problem}"
        for node in graph.node:
            for attribute in node.attribute:
                for tensor in [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]:
                    if problem := _inline(tensor):
                        yield f"{node.name:.120}, attribute {attribute.name:.40}: {problem}"
                if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                    yield f"{node.name:.120} holds a sparse tensor"
    yield from overlaps(extents)


def _inline(tensor: onnx.TensorProto) -> str | None:
    if tensor.external_data or tensor.data_location != onnx.TensorProto.DEFAULT:
        return "has external data that is not an initializer's, or is not marked as such"
    size = stored_bytes(tensor)
    typed = [name for name in _TYPED if len(getattr(tensor, name))]
    if tensor.data_type == onnx.TensorProto.STRING:
        return None
    if isinstance(size, str):
        return size
    if tensor.HasField("raw_data"):
        if typed:
            return "has its data twice"
        return None if len(tensor.raw_data) == size else f"has {len(tensor.raw_data)} bytes, its shape needs {size}"
    return None if bool(typed) == bool(size) and len(typed) <= 1 else "has no data, or has it twice"
