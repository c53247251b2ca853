"""The KV cache as graph inputs and outputs: pairs `past_key_values.N.key/.value` and `present.N.key/.value`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from foldrank.errors import GraphNotRecognized

_PAST = re.compile(r"past_key_values\.(\d{1,5})\.(key|value)")
_PRESENT = re.compile(r"present\.(\d{1,5})\.(key|value)")


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
