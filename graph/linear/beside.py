"""Pairs beside a linear: y = x W + (x A) B.

    x ──┬── linear (or A, B in its place) ── Add ── bias, parts, sums
        └── A ── B ── (Concat) ───────────────┘

The Add stands right behind the product, so whoever follows a linear's result begins at `result_of`, and whoever asks
what made a value goes through `product_of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from foldrank.edits.anatomy import Beside
from foldrank.graph.linear.marks import BESIDE, PART, sites_of


def adds_beside(node: ir.Node | None) -> bool:
    """Whether a node adds pairs to what a linear gives."""
    return node is not None and node.metadata_props.get(PART) == BESIDE


def result_of(node: ir.Node) -> ir.Value:
    """What a linear gives, with the pairs beside it; its bias is not added yet, but for a Gemm's own."""
    value = node.outputs[0]
    added = (reader for reader in value.consumers() if adds_beside(reader) and reader.inputs[0] is value)
    return next((reader.outputs[0] for reader in added), value)


def product_of(value: ir.Value) -> ir.Value:
    """A value without the pairs that were added last."""
    maker = value.producer()
    product = maker.inputs[0] if maker is not None and adds_beside(maker) else None
    return value if product is None else product


def pairs_beside(nodes: Iterable[ir.Node]) -> dict[str, Beside]:
    """The pair beside each role, where these nodes of one block add one."""
    found: dict[str, Beside] = {}
    for b in (b for node in nodes if adds_beside(node) for b in _products(node.inputs[1])):
        inner, matrix = b.inputs
        a = inner.producer() if inner is not None else None
        if a is not None and matrix is not None and matrix.shape is not None:
            pair = Beside(matrix.shape.numpy()[0], str(a.inputs[1] and a.inputs[1].name))
            found |= {site.role: pair for site in sites_of(b)}
    return found


def _products(value: ir.Value | None) -> Iterator[ir.Node]:
    """The MatMuls by B that were joined to this value."""
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "Concat":
        for part in node.inputs:
            yield from _products(part)
    elif node is not None:
        yield node
