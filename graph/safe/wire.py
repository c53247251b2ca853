"""Look over an ONNX file's wire format before protobuf parses it: a small hostile file must not become huge objects.

Counts fields, follows only the messages ONNX nests, bounds every string. Knows field numbers of onnx.proto, no meaning.
"""

from __future__ import annotations

MAX_FIELDS = 600_000
MAX_DEPTH = 24
MAX_STRING = 1 << 20
MAX_PACKED = 4 << 20

_NESTED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "leaf", 14: "leaf", 20: "graph", 25: "function", 26: "leaf"},
    "graph": {1: "node", 5: "tensor", 11: "leaf", 12: "leaf", 13: "leaf", 14: "leaf", 15: "sparse", 16: "leaf"},
    "function": {7: "node", 9: "leaf", 11: "attribute", 12: "leaf", 14: "leaf"},
    "node": {5: "attribute", 9: "leaf", 10: "leaf"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 14: "leaf", 15: "leaf", 22: "sparse",
                  23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {3: "leaf", 13: "leaf", 16: "leaf"},
    "leaf": {},
}
"""Message kind -> field number -> kind of the message in it. "leaf": small messages that are bounded by their bytes."""

_BULK = {("tensor", 4), ("tensor", 9), ("tensor", 10)}
"""TensorProto float_data, raw_data, double_data: memory as large as their bytes, so no bound of their own."""

_PACKED = {("tensor", 1), ("tensor", 5), ("tensor", 7), ("tensor", 11), ("attribute", 7), ("attribute", 8)}
"""Packed numbers, up to eight bytes of memory for one byte of file."""


def survey(data: bytes) -> str | None:
    """Say why this file must not be parsed, or None. Time and memory are bounded by MAX_FIELDS."""
    try:
        _walk(memoryview(data))
    except _Bad as bad:
        return str(bad)
    return None


class _Bad(Exception):
    pass


def _walk(data: memoryview) -> None:
    fields = packed = 0
    pending = [("model", 0, len(data), 0)]
    while pending:
        kind, position, end, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise _Bad(f"messages nested deeper than {MAX_DEPTH}")
        nested = _NESTED[kind]
        while position < end:
            fields += 1
            if fields > MAX_FIELDS:
                raise _Bad(f"more than {MAX_FIELDS} fields")
            key, position = _varint(data, position, end)
            number, wire = key >> 3, key & 7
            if wire != 2:
                position = _skip(data, position, end, wire)
                continue
            size, position = _varint(data, position, end)
            if size > end - position:
                raise _Bad("truncated: a field reaches past the end")
            if inner := nested.get(number):
                if inner == "leaf" and size > MAX_STRING:
                    raise _Bad(f"a {size} byte entry where a name or a note belongs")
                if inner != "leaf":
                    pending.append((inner, position, position + size, depth + 1))
            elif (kind, number) in _PACKED:
                packed += size
                if packed > MAX_PACKED:
                    raise _Bad("more than 4 MiB of packed integers; weights belong in raw data or external data")
            elif size > MAX_STRING and (kind, number) not in _BULK:
                raise _Bad(f"a text of {size} bytes (field {number} of {kind})")
            position += size


def _skip(data: memoryview, position: int, end: int, wire: int) -> int:
    if wire == 0:
        return _varint(data, position, end)[1]
    if wire not in (1, 5):
        raise _Bad("not ONNX: wire type of groups")
    position += 8 if wire == 1 else 4
    if position > end:
        raise _Bad("truncated: a number reaches past the end")
    return position


def _varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise _Bad("truncated: a number has no end")
