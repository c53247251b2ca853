"""Raise the opset that a model imports, where that changes the meaning of none of its operators.

An operator whose definition is another in the newer opset must come out of ONNX's own version converter as it went in.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir
from onnx import helper, version_converter

from foldrank.errors import PassRefused

_OTHERWISE = frozenset({"GroupNormalization"})
"""What takes other scales from opset 21 on, and the converter leaves as it was."""


def raise_opset(model: ir.Model, wanted: int, needed_for: str, way_out: str) -> None:
    """Import at least this opset of the standard operators. Raises PassRefused, naming the operators that would compute
    another thing; the model is as it was then."""
    imports = model.graph.opset_imports
    version = imports.get("", 0)
    if version < wanted:
        if odd := sorted(_changed(model.graph, version, wanted)):
            what = f"{needed_for} needs opset {wanted}, the graph has {version}, and {', '.join(odd)} differ there"
            raise PassRefused("quantize", [what], way_out)
        imports[""] = wanted
    model.ir_version = max(model.ir_version or 0, helper.find_min_ir_version_for([helper.make_opsetid("", wanted)]))


def _changed(graph: ir.Graph, version: int, wanted: int) -> set[str]:
    """Operators that compute another thing there. Nodes that differ in names and tensors alone are asked about
    once."""
    alone = {model.SerializeToString(deterministic=True): model for node in ir.traversal.RecursiveGraphIterator(graph)
             if _redefined(node, version, wanted) for model in _alone(node, version)}
    return {op for model in alone.values()
            if (op := model.graph.node[0].op_type) in _OTHERWISE or not _unchanged(model, wanted)}


def _redefined(node: ir.Node, version: int, wanted: int) -> bool:
    """Whether the two opsets define a standard operator apart. ONNX Runtime has some of its own in that domain."""
    try:
        old, new = (onnx.defs.get_schema(node.op_type, opset) for opset in (version, wanted))
    except onnx.defs.SchemaError:
        return False
    return not node.domain and old.since_version != new.since_version


def _alone(node: ir.Node, version: int) -> Iterator[onnx.ModelProto]:
    """A model of this node alone, without names and contents of tensors; none of a node with graphs inside it, whose
    nodes are asked."""
    attributes = [ir.to_proto(attribute) for attribute in node.attributes.values()]
    if any(attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in attributes):
        return
    for attribute in attributes:
        if attribute.type == onnx.AttributeProto.TENSOR:
            attribute.t.CopyFrom(helper.make_tensor("", attribute.t.data_type, [0], []))
    places: dict[ir.Value, str] = {}
    inputs = [places.setdefault(value, f"i{len(places)}") if value is not None else "" for value in node.inputs]
    outputs = [f"o{place}" for place in range(len(node.outputs))]
    made = helper.make_node(node.op_type, inputs, outputs)
    made.attribute.extend(attributes)
    ports = [[helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
             for names in (places.values(), outputs)]
    graph = helper.make_graph([made], "alone", *ports)
    yield helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])


def _unchanged(alone: onnx.ModelProto, wanted: int) -> bool:
    """Whether ONNX's converter leaves the node as it is."""
    try:
        (made,) = version_converter.convert_version(alone, wanted).graph.node
    except (RuntimeError, ValueError):
        return False
    (node,) = alone.graph.node
    return (made.op_type, list(made.input), _attributes(made)) == (node.op_type, list(node.input), _attributes(node))


def _attributes(node: onnx.NodeProto) -> dict[str, bytes]:
    return {attribute.name: attribute.SerializeToString(deterministic=True) for attribute in node.attribute}
