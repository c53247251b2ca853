"""What stands in a model.onnx: inputs, outputs, operators and data files, read without loading a weight.

ONNX Runtime's CPU provider, asked instead, would load every weight and has no kernels for bf16. So the protobuf is
walked here: field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), the
encoding is https://protobuf.dev/programming-guides/encoding/. Knows nothing of what operators compute.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from foldrank.errors import UnsafeModel

TYPES = {1: "float", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "double",
         16: "bfloat16"}
"""onnx.TensorProto.DataType by ONNX Runtime's names."""

_GRAPH, _FUNCTIONS = 7, 25  # of ModelProto
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12  # of GraphProto
_FUNCTION_NODE = 7


@dataclass(frozen=True)
class Port:
    """An input or output of a graph: shape as declared (numbers, names or None), ONNX Runtime's type name."""

    shape: tuple[int | str | None, ...]
    type: str


@dataclass(frozen=True)
class GraphFile:
    """`operators`: nodes by domain (`""` is ONNX's own) and type, those of inner graphs and functions with them.
    `data_files`: where weights lie outside the file, relative to it."""

    inputs: dict[str, Port]
    outputs: dict[str, Port]
    operators: Counter[tuple[str, str]]
    data_files: tuple[str, ...]


def read_graph(path: Path) -> GraphFile:
    """Read the file. Raises UnsafeModel where it is no ONNX graph, OSError."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _model(data)
    except (ValueError, IndexError) as error:  # mmap takes no empty file
        raise UnsafeModel(path, f"is no ONNX graph ({error})", "export or apply again") from None


class _Field(NamedTuple):
    """A field of a message: `value` of a number, `span` of what has a length."""

    number: int
    value: int
    span: tuple[int, int]


def _model(data: mmap.mmap) -> GraphFile:
    top = list(_fields(data, (0, len(data))))
    graphs = [f.span for f in top if f.number == _GRAPH]
    if len(graphs) != 1:
        raise ValueError(f"{len(graphs)} graphs")
    operators: Counter[tuple[str, str]] = Counter()
    files: set[str] = set()
    functions = [list(_fields(data, f.span)) for f in top if f.number == _FUNCTIONS]
    inside = [f.span for function in functions for f in function if f.number == _FUNCTION_NODE]
    waiting = [*graphs, *(graph for node in inside for graph in _count(data, node, operators))]
    while waiting:  # no recursion: graphs in graphs may be as deep as a file is long
        for field in _fields(data, waiting.pop()):
            if field.number == _NODE:
                waiting += _count(data, field.span, operators)
            elif field.number == _INITIALIZER:
                files |= _data_file(data, field.span)
    for function in functions:  # what is defined in the file is no operator of a library
        operators.pop((_text(data, function, 10), _text(data, function, 1)), None)
    ports = [dict(_port(data, f.span) for f in _fields(data, graphs[0]) if f.number == kind)
             for kind in (_INPUT, _OUTPUT)]
    initial = {_text(data, _fields(data, f.span), 8) for f in _fields(data, graphs[0]) if f.number == _INITIALIZER}
    return GraphFile({n: p for n, p in ports[0].items() if n not in initial}, ports[1], operators,
                     tuple(sorted(files)))


def _count(data: mmap.mmap, node: tuple[int, int], operators: Counter[tuple[str, str]]) -> list[tuple[int, int]]:
    """Count a NodeProto; gives the graphs in its attributes."""
    fields = list(_fields(data, node))
    domain = _text(data, fields, 7)
    operators["" if domain == "ai.onnx" else domain, _text(data, fields, 4)] += 1
    return [inner.span for f in fields if f.number == 5 for inner in _fields(data, f.span) if inner.number in (6, 11)]


def _data_file(data: mmap.mmap, tensor: tuple[int, int]) -> set[str]:
    """`location` of a TensorProto that lies outside."""
    entries = [list(_fields(data, f.span)) for f in _fields(data, tensor) if f.number == 13]
    return {_text(data, entry, 2) for entry in entries if _text(data, entry, 1) == "location"}


def _port(data: mmap.mmap, value: tuple[int, int]) -> tuple[str, Port]:
    """A ValueInfoProto of a tensor; of anything else the type is empty."""
    fields = list(_fields(data, value))
    tensor = [t for f in fields if f.number == 2 for t in _fields(data, f.span) if t.number == 1]
    parts = [part for t in tensor for part in _fields(data, t.span)]
    kind = next((TYPES.get(p.value, str(p.value)) for p in parts if p.number == 1), "")
    axes = [axis for p in parts if p.number == 2 for axis in _fields(data, p.span) if axis.number == 1]
    return _text(data, fields, 1), Port(tuple(_axis(data, axis.span) for axis in axes), f"tensor({kind})")


def _axis(data: mmap.mmap, span: tuple[int, int]) -> int | str | None:
    """A Dimension: its name, else its length, else nothing."""
    fields = list(_fields(data, span))
    return _text(data, fields, 2) or next((f.value for f in fields if f.number == 1), None)


def _text(data: mmap.mmap, fields: Iterator[_Field] | list[_Field], number: int) -> str:
    """The string in that field; `""` where it is not set."""
    return next((data[f.span[0]: f.span[1]].decode() for f in fields if f.number == number), "")


def _fields(data: mmap.mmap, span: tuple[int, int]) -> Iterator[_Field]:
    at, end = span
    while at < end:
        key, at = _varint(data, at)
        value, begin = 0, at
        match key & 7:
            case 0:
                value, at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                length, begin = _varint(data, at)
                at = begin + length
            case 5:
                at += 4
            case other:
                raise ValueError(f"wire type {other} at byte {begin}")
        if at > end:
            raise ValueError(f"a field at byte {begin} is longer than what it is in")
        yield _Field(key >> 3, value, (begin, at))


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """The number that begins there and where it ends; ten bytes at most."""
    found = 0
    for position in range(10):
        byte = data[at + position]
        found |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return found, at + position + 1
    raise ValueError(f"a number at byte {at} has no end")
