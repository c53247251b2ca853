"""Raise the opset that a model imports, where that changes the meaning of none of its operators.

An operator whose definition is another in the newer opset must come out of ONNX's own version converter as it went in.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir
from onnx import helper, version_converter

from foldrank.errors import PassRefused

_REDEFINED = frozenset({"GroupNormalization"})
"""What takes other scales from opset 21 on, and the converter leaves as it was."""


def raise_opset(model: ir.Model, wanted: int, needed_for: str, way_out: str) -> None:
    """Import at least this opset of the standard operators. Raises PassRefused, naming the operators that would compute
    another thing; the model is as it was then."""
    imports = model.graph.opset_imports
    version = imports.get("", 0)
    if version < wanted:
        if odd := sorted({node.op_type for node in _nodes(model.graph) if not _stays(node, version, wanted)}):
            what = f"{needed_for} needs opset {wanted}, the graph has {version}, and {', '.join(odd)} differ there"
            raise PassRefused("quantize", [what], way_out)
        imports[""] = wanted
    model.ir_version = max(model.ir_version or 0, helper.find_min_ir_version_for([helper.make_opsetid("", wanted)]))


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Of the standard domain, those in graphs inside them too."""
    return (node for node in ir.traversal.RecursiveGraphIterator(graph) if not node.domain)


def _stays(node: ir.Node, version: int, wanted: int) -> bool:
    try:
        old, new = (onnx.defs.get_schema(node.op_type, opset) for opset in (version, wanted))
    except onnx.defs.SchemaError:
        return True  # ONNX Runtime's own, in the standard domain
    same = old.since_version == new.since_version
    return same or (node.op_type not in _REDEFINED and _unchanged(node, version, wanted))


def _unchanged(node: ir.Node, version: int, wanted: int) -> bool:
    """Whether ONNX's converter leaves a node as it is; graphs inside it are asked node by node."""
    proto = ir.to_proto(node)
    if any(attribute.type == onnx.AttributeProto.GRAPH for attribute in proto.attribute):
        return True
    ports = [[helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in dict.fromkeys(names)
              if name] for names in (proto.input, proto.output)]
    alone = helper.make_model(helper.make_graph([proto], "one", *ports),
                              opset_imports=[helper.make_opsetid("", version)])
    try:
        (made,) = version_converter.convert_version(alone, wanted).graph.node
    except (RuntimeError, ValueError):
        return False
    return (made.op_type, list(made.input), _attributes(made)) == (proto.op_type, list(proto.input), _attributes(proto))


def _attributes(node: onnx.NodeProto) -> dict[str, bytes]:
    return {attribute.name: attribute.SerializeToString(deterministic=True) for attribute in node.attribute}
