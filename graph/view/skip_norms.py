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
from foldrank.graph.dialects.modules import SCOPES
from foldrank.graph.view.decoder import Decoder, View

BIAS = {"SkipLayerNormalization": 4, "SkipSimplifiedLayerNormalization": 3}
"""Merged norms, and the input slot of the bias. First come residual and branch, in any order, then the norm's own."""
SUM = 3
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


def without_sum(graph: ir.Graph, merged: ir.Node, value: ir.Value) -> ir.Node:
    """Replace a merged norm by the plain norm of one value, which stands for the sum too; the norm."""
    norm = _plain(merged, value)
    graph.insert_before(merged, norm)
    merged.outputs[0].replace_all_uses_with(norm.outputs[0])
    for total in merged.outputs[SUM:]:
        total.replace_all_uses_with(value)
    graph.remove(merged, safe=True)
    return norm


def merge_sum(graph: ir.Graph, norm: ir.Node) -> ir.Node | None:
    """Where a plain norm reads the sum of a merged norm whose own norm nothing reads, make the two one merged norm, in
    the plain one's place, and give it; None where that is not so, or the sum is read before."""
    total = norm.inputs[0]
    source = total.producer() if total is not None else None
    if source is None or total is None or source.op_type != f"Skip{norm.op_type}" or total.index() != SUM \
            or source.outputs[0].uses() or source.outputs[0].is_graph_output():
        return None
    place = {node: i for i, node in enumerate(graph)}
    if any(place[reader] < place[norm] for reader in total.consumers()):
        return None
    bias = BIAS[source.op_type]
    own = [*norm.inputs[1:], *[None] * (bias - 1 - len(norm.inputs))]
    olds = {0: norm.outputs[0], **({SUM: total} if len(total.consumers()) > 1 else {})}
    merged = ir.Node("com.microsoft", source.op_type, _trimmed([*source.inputs[:2], *own, *source.inputs[bias:]]),
                     [ir.AttrFloat32("epsilon", norm.attributes.get_float("epsilon", _EPSILON))],
                     num_outputs=max(olds) + 1, name=norm.name, metadata_props=dict(norm.metadata_props))
    graph.insert_before(norm, merged)
    for slot, new in enumerate(merged.outputs):
        new.name = ""
        if (old := olds.get(slot)) is not None:
            new.name, new.type, new.shape = old.name, old.type, old.shape
            old.replace_all_uses_with(new)
    graph.remove([norm, source], safe=True)
    return merged


def _merged(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in graph if node.op_type in BIAS
            and not any(v.uses() or v.is_graph_output() for v in node.outputs[1:SUM])]


def _kinds(view: View) -> float:
    """Of how many kinds blocks are; a graph that cannot be read has more than any other."""
    try:
        return len({block.kind for block in view.decoder.blocks})
    except GraphNotRecognized:
        return math.inf


def _take_apart(graph: ir.Graph, merged: ir.Node, place: dict[ir.Node, int]) -> ir.Node:
    """What is made last of the two values added is the branch: it was computed from the other."""
    residual, branch = sorted(merged.inputs[:2], key=lambda value: _place_of(value, place))
    bias = merged.inputs[BIAS[merged.op_type] :]
    sums = [_sum([branch, value], branch, merged, "biased") for value in bias if value is not None]
    sums.append(_sum([residual, sums[0].outputs[0] if sums else branch], branch, merged, "sum"))
    norm = _plain(merged, sums[-1].outputs[0])
    place |= dict.fromkeys((*sums, norm), place[merged])
    olds = [merged.outputs[0], *merged.outputs[SUM:]]
    news = [norm.outputs[0], sums[-1].outputs[0]][: len(olds)]
    ir.convenience.replace_nodes_and_values(graph, merged, [merged], [*sums, norm], olds, news)
    return norm


def _plain(merged: ir.Node, value: ir.Value) -> ir.Node:
    """The norm of a merged norm, of this value."""
    epsilon = merged.attributes.get_float("epsilon", _EPSILON)
    own = _trimmed(merged.inputs[2 : BIAS[merged.op_type]])
    norm = ir.Node("", merged.op_type.removeprefix("Skip"), [value, *own],
                   [ir.AttrInt64("axis", -1), ir.AttrFloat32("epsilon", epsilon)],
                   name=merged.name, metadata_props=dict(merged.metadata_props))
    result, old = norm.outputs[0], merged.outputs[0]
    result.name, result.type, result.shape = old.name, old.type, old.shape
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
