"""The header of a GGUF file, read by hand and proved before a library sees the file: what it says, what lies where.

Knows bytes (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Knows nothing of models.
"""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

from foldrank.errors import CheckpointRefused, SourceError

MAGIC = b"GGUF"
Value = int | float | bool | str | tuple[int | float | bool, ...]
"""One value of the metadata."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_BLOCKS = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}
"""ggml's numbers of the types weights are stored in: name, numbers in a block, bytes of a block."""

_MOST = {"metadata entries": 1 << 12, "tensors": 1 << 16, "texts": 1 << 21, "array entries": 1 << 22}
_LONGEST_NAME, _LONGEST_TEXT = 1 << 10, 1 << 20
_KEPT = 1 << 12
_DOWNLOAD = "fetch the file again"
_PART = re.compile(r".*-\d{5}-of-\d{5}\.gguf")


@dataclass(frozen=True)
class Tensor:
    """`shape` fastest axis first, as GGUF has it; `bytes` from `start` of the file on."""

    name: str
    type: str
    shape: tuple[int, ...]
    start: int
    bytes: int


@dataclass(frozen=True)
class Header:
    """Metadata by key; of arrays of texts and long ones the counts alone; and the tensors by name."""

    values: dict[str, Value]
    counts: dict[str, int]
    tensors: dict[str, Tensor]

    def number(self, key: str) -> int | None:
        """A whole number of the metadata; None where there is none, or it is of another form."""
        value = self.values.get(key)
        return value if type(value) is int else None


def read_header(path: Path) -> Header:
    """What the header says, every count and size held against the file. Raises SourceError: truncated, another version
    or byte order, one part of several, a type that is not known, tensors that overlap or lie outside."""
    if _PART.fullmatch(path.name):
        raise SourceError(path, "is one part of a split GGUF file", "join the parts: llama-gguf-split --merge")
    if path.stat().st_size < 24:
        raise SourceError(path, "bad GGUF file: truncated", _DOWNLOAD)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            header = _header(_Cursor(data))
        except _BadHeader as error:
            raise CheckpointRefused(path, f"bad GGUF file: {error}", _DOWNLOAD) from None
    if (header.number("split.count") or 0) > 1:
        raise SourceError(path, "is one part of a split GGUF file", "join the parts: llama-gguf-split --merge")
    return header


def is_gguf(path: Path, start: bytes) -> bool:
    """Whether a file that starts so, or is called so, is one."""
    return start[:4] == MAGIC or path.suffix == ".gguf"


class _BadHeader(Exception):
    """What is wrong with it."""


class _Cursor:
    """A place in the file that never leaves it."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.place, self.size, self._texts = data, 0, len(data), 0

    def skip(self, count: int) -> int:
        """Go on by so many bytes; gives where they begin."""
        start = self.place
        if count > self.size - start:
            raise _BadHeader("truncated, or a size in it is too large")
        self.place = start + count
        return start

    def numbers(self, form: str, count: int = 1) -> tuple[int | float | bool, ...]:
        """So many numbers of one struct form."""
        layout = f"<{count}{form}"
        found: tuple[int | float | bool, ...] = struct.unpack_from(layout, self.data,
                                                                   self.skip(count * struct.calcsize(f"<{form}")))
        return found

    def whole(self, form: str = "Q", *, most: str | None = None) -> int:
        """One whole number, a count of `most` where that is given."""
        count = int(self.numbers(form)[0])
        if most is not None and count > _MOST[most]:
            raise _BadHeader(f"it claims {count} {most}")
        return count

    def text(self, longest: int = _LONGEST_TEXT) -> str:
        """A text of at most so many bytes."""
        length = self.whole()
        if length > longest:
            raise _BadHeader(f"a text of {length} bytes")
        start = self.skip(length)
        try:
            return self.data[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            raise _BadHeader("a text is not UTF-8") from None

    def skip_texts(self, count: int) -> None:
        """Pass over so many texts; there is a most for the whole file."""
        self._texts += count
        if self._texts > _MOST["texts"]:
            raise _BadHeader(f"it claims {self._texts} texts")
        length, data, place, size = struct.Struct("<Q").unpack_from, self.data, self.place, self.size
        for _ in range(count):
            if place + 8 > size:
                break
            place += 8 + length(data, place)[0]
        else:
            self.skip(place - self.place)
            return
        raise _BadHeader("truncated, or a size in it is too large")


def _header(cursor: _Cursor) -> Header:
    if cursor.data[:4] != MAGIC:
        raise _BadHeader("it does not begin as one")
    cursor.skip(4)
    version = cursor.whole("I")
    if version not in (2, 3):
        order = " (its bytes are in the other order)" if version in (2 << 24, 3 << 24) else ""
        raise _BadHeader(f"its version is {version}{order}; 2 and 3 are known")
    tensors, entries = cursor.whole(most="tensors"), cursor.whole(most="metadata entries")
    values: dict[str, Value] = {}
    counts: dict[str, int] = {}
    for _ in range(entries):
        key = cursor.text(_LONGEST_NAME)
        if key in values or key in counts:
            raise _BadHeader(f"{key} stands in it twice")
        found = _value(cursor, cursor.whole("I"))
        if isinstance(found, _Long):
            counts[key] = found.count
        else:
            values[key] = found
    return Header(values, counts, _tensors(cursor, tensors, values.get("general.alignment", 32)))


@dataclass(frozen=True)
class _Long:
    """An array of texts, or of more numbers than a model's settings have."""

    count: int


def _value(cursor: _Cursor, kind: int) -> Value | _Long:
    if kind in _SCALARS:
        return cursor.numbers(_SCALARS[kind])[0]
    if kind == _TEXT:
        return cursor.text()
    if kind != _ARRAY:
        raise _BadHeader(f"a value of type {kind}, which is not known")
    kind = cursor.whole("I")
    count = cursor.whole(most="array entries")
    if kind in _SCALARS:
        found = cursor.numbers(_SCALARS[kind], count)
        return found if count <= _KEPT else _Long(count)
    if kind != _TEXT:
        raise _BadHeader(f"an array of type {kind}, which is not known")
    cursor.skip_texts(count)
    return _Long(count)


def _tensors(cursor: _Cursor, count: int, alignment: Value) -> dict[str, Tensor]:
    """By name; `start` counts from the file's beginning."""
    if type(alignment) is not int or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise _BadHeader(f"its alignment is {alignment!r}")
    entries = [_entry(cursor) for _ in range(count)]
    base = -(-cursor.place // alignment) * alignment
    found: dict[str, Tensor] = {}
    for name, kind, shape, offset in entries:
        if name in found:
            raise _BadHeader(f"{name} stands in it twice")
        if kind not in _BLOCKS:
            raise _BadHeader(f"{name} is of type {kind}, which is not known")
        called, numbers, size = _BLOCKS[kind]
        if shape[0] % numbers or offset % alignment:
            raise _BadHeader(f"{name}: {shape} of {called} at {offset} does not fit its blocks")
        found[name] = Tensor(name, called, shape, base + offset, prod(shape) // numbers * size)
    _check_apart(list(found.values()), cursor.size)
    return found


def _entry(cursor: _Cursor) -> tuple[str, int, tuple[int, ...], int]:
    name = cursor.text(_LONGEST_NAME)
    axes = cursor.whole("I")
    if not 1 <= axes <= 4:
        raise _BadHeader(f"{name} has {axes} axes")
    shape = tuple(map(int, cursor.numbers("Q", axes)))
    if 0 in shape:
        raise _BadHeader(f"{name} is empty: {shape}")
    return name, cursor.whole("I"), shape, cursor.whole()


def _check_apart(tensors: list[Tensor], size: int) -> None:
    end = 0
    for tensor in sorted(tensors, key=lambda one: one.start):
        if tensor.start < end:
            raise _BadHeader(f"{tensor.name} overlaps another tensor")
        end = tensor.start + tensor.bytes
        if end > size:
            raise _BadHeader(f"{tensor.name} ends at byte {end}, the file at {size}: truncated")
