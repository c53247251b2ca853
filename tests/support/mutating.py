"""Structural mutations of what strangers write: JSON, ONNX graphs, headers of safetensors files, bytes of anything.

Every choice is drawn from a string of bytes, so that a case is those bytes, and a fuzzer that is led by coverage can
change one choice at a time. Knows formats; knows nothing of foldrank.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import onnx

T = TypeVar("T")
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 2**31 - 1, 2**31, 2**53 + 1, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-320, 1e308,
    "", "x", "0", "nan", "../x", "/etc/passwd", "a\0b", "\x1b[31m", "é\U0001f600", "x" * 5000, "block.00.q",
    "block.99.q", [], {}, [[]], [None], {"": 0}, {"x": {"x": {"x": []}}}, [0] * 300, list(range(40)),
)
NUMBERS = (0, 1, -1, 2, 3, 5, 16, 31, 255, 2**31 - 1, 2**31, 2**62, 2**63 - 1, -(2**63))


class Draw:
    """Choices out of bytes; where they end, each is the first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def below(self, count: int) -> int:
        """0 to count - 1."""
        taken = self._data[self._at : self._at + 2]
        self._at += 2
        return int.from_bytes(taken, "little") % max(1, count)

    def of(self, options: Sequence[T]) -> T:
        """One of them."""
        return options[self.below(len(options))]


def json_text(text: str, draw: Draw) -> str:
    """JSON with one to four changes to its tree, and now and then one to the text itself."""
    tree = json.loads(text)
    for _ in range(1 + draw.below(4)):
        tree = _changed(tree, draw)
    written = json.dumps(tree)
    return written if draw.below(8) else _damaged(written, draw)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Each (container, key) below."""
    found, pending = [], [tree]
    while pending:
        here = pending.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        for key in keys:
            found.append((here, key))
            pending.append(here[key])
    return found


def _changed(tree: Any, draw: Draw) -> Any:
    places = _places(tree)
    if not places:
        return copy.deepcopy(draw.of(ODD))
    here, key = draw.of(places)
    other, name = draw.of(places)
    match draw.below(10):
        case 0:
            del here[key]
        case 1 | 2:
            here[key] = copy.deepcopy(draw.of(ODD))
        case 3:
            here[key] = copy.deepcopy(other[name])
        case 4:
            here[key], other[name] = copy.deepcopy(other[name]), copy.deepcopy(here[key])
        case 5 if isinstance(here, dict):
            here[str(draw.of(("extra", name, "schema", "")))] = here.pop(key)
        case 5 | 6 if isinstance(here, list):
            here.insert(draw.below(len(here) + 1), copy.deepcopy(here[key]))
        case 7 if isinstance(here, list):
            here.reverse()
        case _:
            here[key] = _nudged(here[key], draw)
    return tree


def _nudged(value: Any, draw: Draw) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + draw.of((1, -1, 2, -value, value, 2**31))
        case float():
            return value * draw.of((-1.0, 2.0, 0.999, 1e300, 0.0))
        case str():
            at = draw.below(len(value) + 1)
            return value[:at] + draw.of(("x", "0", ".", "/", "", "\u202e", value)) + value[at + draw.below(2):]
        case list():
            return value[: draw.below(len(value) + 1)]
    return copy.deepcopy(draw.of(ODD))


def _damaged(text: str, draw: Draw) -> str:
    at = draw.below(len(text) + 1)
    piece = draw.of(('"', "{", "[" * 70, "NaN", "Infinity", ",", '{"a":1,"a":2}', "\ufeff", "\\ud800", "1e999", "]"))
    return draw.of((text[:at], text[:at] + piece + text[at:], text[:at] + text[at + 1 :]))


def damaged_bytes(data: bytes, draw: Draw) -> bytes:
    """Cut short, some bytes changed, or a part doubled."""
    out, at = bytearray(data), draw.below(len(data) or 1)
    match draw.below(4):
        case 0:
            del out[at:]
        case 1:
            out[at:at] = out[at : at + 1 + draw.below(64)]
        case _:
            for _ in range(1 + draw.below(6)):
                if out:
                    out[draw.below(len(out))] = draw.below(256)
    return bytes(out)


def tensors(data: bytes, draw: Draw) -> bytes:
    """A safetensors file whose header, or the length before it, is another."""
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = data[8 : 8 + length], data[8 + length :]
    if not draw.below(6):
        return damaged_bytes(data, draw)
    text = json_text(header.decode(), draw).encode("utf-8", "surrogatepass")
    told = len(text) if draw.below(6) else draw.of((0, 1, len(text) + 1, 2**31, 2**63, len(data)))
    return struct.pack("<Q", told) + text + (rest if draw.below(6) else rest[: draw.below(len(rest) + 1)])


def graph(data: bytes, draw: Draw) -> bytes:
    """An ONNX model with one to four changes of its nodes, attributes, weights and ports, or some other bytes."""
    if not draw.below(12):
        return damaged_bytes(data, draw)
    model = onnx.ModelProto()
    model.ParseFromString(data)
    changes = list(_graph_changes(model, draw))
    for _ in range(1 + draw.below(4)):
        try:
            draw.of(changes)()
        except (ValueError, TypeError):  # protobuf itself has no such number
            continue
    return bytes(model.SerializeToString())


def _graph_changes(model: onnx.ModelProto, draw: Draw) -> Iterator[Callable[[], object]]:
    body = model.graph
    names = [name for node in body.node for name in node.output] + [t.name for t in body.initializer] + [""]

    def node() -> onnx.NodeProto:
        return body.node[draw.below(len(body.node))]

    def tensor() -> onnx.TensorProto:
        return body.initializer[draw.below(len(body.initializer))]

    def wire(ends: Any) -> None:
        if ends:
            ends[draw.below(len(ends))] = draw.of(names)

    def operator(one: onnx.NodeProto) -> None:
        one.op_type = draw.of(("Add", "MatMul", "Gather", "Identity", "Loop", "MatMulNBits", "Evil", "",
                               node().op_type))

    def domain(one: onnx.NodeProto) -> None:
        one.domain = draw.of(("", "com.microsoft", "ai.onnx.ml", "evil"))

    def attribute(one: onnx.NodeProto) -> None:
        if not one.attribute:
            one.attribute.add(name=draw.of(("axis", "epsilon", "extra")), i=draw.of(NUMBERS), type=2)
            return
        held = one.attribute[draw.below(len(one.attribute))]
        match draw.below(5):
            case 0:
                held.i = draw.of(NUMBERS)
            case 1:
                held.f = float(draw.of((0.0, -1.0, 1e30, 1e-30)))
            case 2:
                held.type = draw.below(15)
            case 3:
                held.name = draw.of(("axis", "", "scale", "num_heads"))
            case _:
                one.attribute.add().CopyFrom(held)

    def dims(one: onnx.TensorProto) -> None:
        if one.dims:
            one.dims[draw.below(len(one.dims))] = draw.of(NUMBERS)

    def external(one: onnx.TensorProto) -> None:
        if one.external_data:
            entry = one.external_data[draw.below(len(one.external_data))]
            entry.value = draw.of((*map(str, NUMBERS), "../x", "/dev/zero", "", "model.onnx", "config.json"))
        else:
            one.raw_data = one.raw_data[: draw.below(len(one.raw_data) + 1)]

    def port(ports: Any) -> None:
        one = ports[draw.below(len(ports))]
        if draw.below(2):
            one.name = draw.of((*names[:3], "past_key_values.0.key", "logits", "x", ""))
        elif sizes := one.type.tensor_type.shape.dim:
            sizes[draw.below(len(sizes))].dim_value = draw.of(NUMBERS)

    def version() -> None:
        model.opset_import[draw.below(len(model.opset_import))].version = draw.of(NUMBERS)

    def doubled(items: Any) -> None:
        items.add().CopyFrom(items[draw.below(len(items))])

    yield from (lambda: wire(node().input), lambda: wire(node().output), lambda: operator(node()),
                lambda: domain(node()), lambda: attribute(node()), lambda: dims(tensor()), lambda: external(tensor()),
                lambda: setattr(tensor(), "data_type", draw.below(30)),
                lambda: setattr(tensor(), "name", draw.of(names)),
                lambda: port(body.input), lambda: port(body.output), version, lambda: doubled(body.node),
                lambda: doubled(body.initializer), lambda: doubled(body.input),
                lambda: body.node.pop(draw.below(len(body.node))),
                lambda: body.output.pop(draw.below(len(body.output))),
                lambda: model.metadata_props.add(key=draw.of(names), value="x" * 100),
                lambda: setattr(model, "ir_version", draw.of(NUMBERS)))
