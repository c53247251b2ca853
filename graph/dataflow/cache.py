"""The KV cache as graph inputs and outputs: pairs `past_key_values.N.key/.value` and `present.N.key/.value`.

transformers.exporters calls them `input.past_key_values.layers.N.keys/.values` and `output.…`; both are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from foldrank.errors import GraphNotRecognized

_PAST = re.compile(r"(?:input\.)?past_key_values\.(?:layers\.)?(\d{1,5})\.(key|value)s?")
_PRESENT = re.compile(r"(?:output\.past_key_values\.(?:layers\.)?|present\.)(\d{1,5})\.(key|value)s?")


@dataclass(frozen=True)
class KVPair:
    """One block's cache: (key, value) that come in and go out. `number` as the names have it."""

    number: int
    past: tuple[ir.Value, ir.Value]
    present: tuple[ir.Value, ir.Value]


def kv_pairs(graph: ir.Graph, where: str) -> tuple[KVPair, ...]:
    """Every pair, by number. Raises GraphNotRecognized where names do not pair up or there is none."""
    past, present = _numbered(graph.inputs, _PAST), _numbered(graph.outputs, _PRESENT)
    if not past:
        raise GraphNotRecognized(where, "no inputs past_key_values.N.key/.value", "export it with a KV cache")
    if odd := sorted(set(past) ^ set(present)):
        raise GraphNotRecognized(where, f"KV inputs and outputs do not pair up: {odd[:4]}", "export the model again")
    numbers = sorted({number for number, _ in past})
    if missing := [n for n in numbers for kind in ("key", "value") if (n, kind) not in past]:
        raise GraphNotRecognized(where, f"KV pair {missing[0]} lacks its key or value", "export the model again")
    return tuple(
        KVPair(n, (past[n, "key"], past[n, "value"]), (present[n, "key"], present[n, "value"])) for n in numbers
    )


def _numbered(values: Iterable[ir.Value], pattern: re.Pattern[str]) -> dict[tuple[int, str], ir.Value]:
    return {
        (int(match.group(1)), match.group(2)): value
        for value in values if (match := pattern.fullmatch(value.name or ""))
    }


def axes(value: ir.Value) -> tuple[int | str | None, ...]:
    """A value's declared shape; numbers that an exporter wrote as symbols (transformers does) are numbers again."""
    texts = [axis.value if isinstance(axis, ir.SymbolicDim) else axis for axis in value.shape or ()]
    return tuple(int(axis) if isinstance(axis, str) and axis.isdecimal() else axis for axis in texts)


def echoes(graph: ir.Graph) -> list[tuple[ir.Value, ir.Value]]:
    """(input, output) where the graph hands an input on unchanged and reads it nowhere else: state of the exporter's
    cache object (the width of a sliding window) that the graph has as constants."""
    outputs = {id(v) for v in graph.outputs}
    return [
        (value, node.outputs[0]) for value in graph.inputs if len(value.uses()) == 1
        for node in value.consumers()
        if node.op_type == "Identity" and id(node.outputs[0]) in outputs and not node.outputs[0].uses()
    ]
