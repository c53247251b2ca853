"""Where a graph surely lets short rows of a batch be padded, by its operators and inputs. A proof tests it, and tries
the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import onnx_ir as ir

Side = Literal["left", "right"]


def padding_sides(model: ir.Model) -> tuple[Side, ...] | None:
    """On the left, on the right, or nowhere (no mask); None where the graph does not tell.

    GroupQueryAttention counts the ones of a row's mask and takes them to stand first (ONNX Runtime,
    ContribOperators.md, `seqlens_k`): on the right alone, unless tokens are rolled to the front by the mask. Other
    graphs that are told positions take the left; on the right padding comes between a prompt and what follows it, which
    shuts a sliding window that counts places. A graph without positions makes them from the mask, or counts places.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    if "attention_mask" not in inputs:
        return ()
    if any(node.op_type == "GroupQueryAttention" for node in model.graph):
        return ("left", "right") if _rolled(inputs.get("input_ids"), inputs["attention_mask"]) else ("right",)
    return ("left",) if "position_ids" in inputs else None


def _rolled(ids: ir.Value | None, mask: ir.Value) -> bool:
    """Whether every reader of the tokens picks them in an order that depends on the mask."""
    readers = [use for use in ids.uses() if use.node.op_type != "Shape"] if ids is not None else []
    return bool(readers) and all(
        use.node.op_type == "GatherElements" and use.idx == 0 and mask in _behind(use.node.inputs[1:2])
        for use in readers
    )


def _behind(values: Iterable[ir.Value | None]) -> set[ir.Value]:
    """These values and all that they are made from."""
    found: set[ir.Value] = set()
    pending = [value for value in values if value is not None]
    while pending:
        value = pending.pop()
        if value not in found:
            found.add(value)
            maker = value.producer()
            pending.extend(v for v in (maker.inputs if maker is not None else ()) if v is not None)
    return found
