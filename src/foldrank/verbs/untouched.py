"""Weights that no edit touches: whether the graph holds the checkpoint's, bit for bit.

A proof by logits would miss one element of a large matrix, and a token that no window has. Taken of the reference's
model before the plan's edits, so of neither planner nor passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from foldrank.digests import DTYPES, cast, in_threads, sha256_array
from foldrank.edits.base import EMBEDDING, HEAD
from foldrank.errors import GraphNotRecognized
from foldrank.graph.linear.linears import stored_matrix
from foldrank.graph.linear.tables import table_of
from foldrank.graph.linear.weights import Array, read
from foldrank.graph.view.decoder import Decoder
from foldrank.graph.view.skip_norms import read_apart
from foldrank.graph.view.stored import stored_digests
from foldrank.planfile.plan import Plan
from foldrank.reports.validate import WeightsKept
from foldrank.sites import Site

if TYPE_CHECKING:
    from foldrank.plans.reference.model import Model

_SHOWN = 5


def source_digests(model: Model, floats: str) -> dict[str, str]:
    """sha256 of W [in, out], in those floats, of every site, the head and the embedding table [words, width]."""
    from foldrank.plans.reference.model import matrix_of

    linears = {str(Site(number, (role,))): layer.linear(role)
               for number, layer in model.layers.items() for role in layer.places}
    ends = {HEAD: model.head, EMBEDDING: model.table}

    def digest(item: tuple[str, object]) -> str:
        weight = matrix_of(item[1])  # type: ignore[arg-type]
        return sha256_array(cast(weight.T if item[0] == EMBEDDING else weight, DTYPES[floats]))

    named = [*linears.items(), *ends.items()]
    return dict(zip((name for name, _ in named), in_threads(digest, named), strict=True))


def weights_kept(graph: ir.Model, plan: Plan | None, source: Mapping[str, str]) -> WeightsKept | None:
    """None where the graph's blocks cannot be told."""
    try:
        decoder = read_apart(graph)
    except GraphNotRecognized:
        return None
    touched = {str(part) for edit in (plan.edits if plan is not None else ())
               for part in edit.touch.writes | edit.touch.removes}
    held = {name: digest for name, digest in (*stored_digests(decoder).items(), *_ends(decoder))
            if name in source and name not in touched}
    differ = [name for name, digest in held.items() if digest != source[name]]
    return WeightsKept(compared=len(held), differ=differ[:_SHOWN], passed=not differ)


def _ends(decoder: Decoder) -> Iterator[tuple[str, str]]:
    """The head [in, out] and the table [words, width], where they are of floats."""
    stored = None if decoder.head is None else stored_matrix(decoder.head)
    if stored is not None:
        yield HEAD, sha256_array(_turned(read(stored.tensor), turned=stored.transposed))
    for node in decoder.lookups[:1]:
        table = node.inputs[0].const_value if node.inputs[0] is not None else None
        if node.op_type == "Gather" and table is not None and table_of(node) is None and len(table.shape) == 2:
            yield EMBEDDING, sha256_array(read(table))


def _turned(weight: Array, *, turned: bool) -> Array:
    return np.ascontiguousarray(weight.T) if turned else weight
