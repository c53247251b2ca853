"""Norms that an exporter merged with the sum before them: taken apart where blocks correspond only so.

ONNX Runtime's Skip(Simplified)LayerNormalization adds residual, branch and perhaps the branch's bias, then norms the
sum. Between two blocks it holds numbers of both: the sum and the bias are the first one's, the norm is the second
one's. Where every boundary is merged alike that does no harm (the genai builder's graphs stay as they are); where block
0 norms a sum of embeddings, or the last block's bias lies in the final norm, blocks that are equal look different.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from foldrank.errors import GraphNotRecognized
from foldrank.graph.decoder import Decoder, View
from foldrank.graph.dialects.modules import SCOPES

_BIAS = {"SkipLayerNormalization": 4, "SkipSimplifiedLayerNormalization": 3}
"""Merged norms, and the input slot of the bias. First come residual and branch, in any order, then the norm's own."""
_SUM = 3
"""Output slot of the sum. Slots 1 and 2 are for training."""
_EPSILON = 1e-12
"""Where the operator names none."""


def read_apart(model: ir.Model) -> Decoder:
    """The decoder of a dense graph, in which merged norms are taken apart first where `hides_blocks`."""
    view = View(model)
    if not hides_blocks(model, view):
        return view.decoder
    take_apart(model.graph)
    return View(model).decoder


def hides_blocks(model: ir.Model, view: View) -> bool:
    """Whether, with merged norms apart, blocks are of fewer kinds, or can be told at all. `view`: the model's."""
    if not _merged(model.graph) or (kinds := _kinds(view)) == 1:
        return False
    apart = model.clone()
    take_apart(apart.graph)
    return _kinds(View(apart)) < kinds


def take_apart(graph: ir.Graph) -> tuple[ir.Node, ...]:
    """Replace every merged norm by sums and a norm, in place; the norms."""
    place = {node: i for i, node in enumerate(graph)}
    return tuple(_take_apart(graph, node, place) for node in _merged(graph))


def _merged(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in graph if node.op_type in _BIAS
            and not any(v.uses() or v.is_graph_output() for v in node.outputs[1:_SUM])]


def _kinds(view: View) -> float:
    """Of how many kinds blocks are; a graph that cannot be read has more than any other."""
    try:
        return len({block.kind for block in view.decoder.blocks})
    except GraphNotRecognized:
        return math.inf


def _take_apart(graph: ir.Graph, merged: ir.Node, place: dict[ir.Node, int]) -> ir.Node:
    """What is made last of the two values added is the branch: it was computed from the other."""
    residual, branch = sorted(merged.inputs[:2], key=lambda value: _place_of(value, place))
    own, bias = merged.inputs[2 : _BIAS[merged.op_type]], merged.inputs[_BIAS[merged.op_type] :]
    sums = [_sum([branch, value], branch, merged, "biased") for value in bias if value is not None]
    sums.append(_sum([residual, sums[0].outputs[0] if sums else branch], branch, merged, "sum"))
    epsilon = merged.attributes.get_float("epsilon", _EPSILON)
    norm = ir.Node("", merged.op_type.removeprefix("Skip"), [sums[-1].outputs[0], *_trimmed(own)],
                   [ir.AttrInt64("axis", -1), ir.AttrFloat32("epsilon", epsilon)],
                   name=merged.name, metadata_props=dict(merged.metadata_props))
    place |= dict.fromkeys((*sums, norm), place[merged])
    olds = [merged.outputs[0], *merged.outputs[_SUM:]]
    news = [norm.outputs[0], sums[-1].outputs[0]][: len(olds)]
    ir.convenience.replace_nodes_and_values(graph, merged, [merged], [*sums, norm], olds, news)
    return norm


def _place_of(value: ir.Value | None, place: dict[ir.Node, int]) -> int:
    """Of what makes the value; before all nodes for an input of the graph."""
    maker = value.producer() if value is not None else None
    return place[maker] if maker is not None else -1


def _sum(values: Sequence[ir.Value | None], branch: ir.Value | None, merged: ir.Node, label: str) -> ir.Node:
    """Their sum, of the block that the branch is of: named after what makes the branch, with its scopes. The residual
    comes first, as in the models' code and so in sums that were not merged."""
    maker = branch.producer() if branch is not None else None
    scopes = {key: maker.metadata_props[key] for key in SCOPES if key in maker.metadata_props} if maker else {}
    name = f"{maker.name}/{label}" if maker and maker.name else None
    node = ir.Node("", "Add", values, name=name, metadata_props=scopes)
    result, normed = node.outputs[0], merged.outputs[0]
    result.name, result.type, result.shape = f"{normed.name}/{label}", normed.type, normed.shape
    return node


def _trimmed(values: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """Without absent inputs at the end."""
    return [v for i, v in enumerate(values) if any(later is not None for later in values[i:])]
