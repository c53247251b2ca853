"""Rules for external data: where an initializer's bytes may lie, and that they fit its shape and dtype.

Checked on the parsed file before any byte of data is read. Two tensors never share bytes: an overlap, an exact one too,
is refused, since a consumer may write through either name (exporters give a tied weight one name with two uses).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

import onnx
import onnx_ir as ir

_KEYS = {"location", "offset", "length", "checksum"}
_DIGITS = re.compile(r"[0-9]{1,18}")
_MAX_ELEMENTS = 1 << 48


@dataclass(frozen=True)
class Extent:
    """Bytes [start, stop) of one file that belong to one tensor."""

    file: str
    start: int
    stop: int
    tensor: str


def stored_bytes(tensor: onnx.TensorProto) -> int | str:
    """Bytes a tensor's shape and dtype ask for, or what is wrong with them."""
    dims = list(tensor.dims)
    if any(d < 0 for d in dims) or prod(dims) > _MAX_ELEMENTS:
        return f"shape {dims[:8]} is not possible"
    try:
        dtype = ir.DataType(tensor.data_type)
        bits = dtype.bitwidth
    except (ValueError, TypeError):
        return f"data type {tensor.data_type} has no fixed size"
    return -(-prod(dims) * bits // 8)


def extent(tensor: onnx.TensorProto, size_of: Callable[[str], int | str]) -> Extent | str:
    """Where the tensor's bytes lie, or why they may not lie there. `size_of`: `file_size` by location."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) != len(tensor.external_data):
        return "an external data key stands twice"
    if unknown := sorted(set(entries) - _KEYS):
        return f"unknown external data key {unknown[0]!r:.40}"
    if _inline_fields(tensor):
        return "has inline and external data"
    size = stored_bytes(tensor)
    if isinstance(size, str):
        return size
    numbers = {key: entries.get(key, default) for key, default in (("offset", "0"), ("length", str(size)))}
    for key, text in numbers.items():
        if not _DIGITS.fullmatch(text):
            return f"external data {key} {text!r:.40} is not a plain number"
    start, length = int(numbers["offset"]), int(numbers["length"])
    if length != size:
        return f"external data has {length} bytes, shape {list(tensor.dims)} needs {size}"
    location = entries.get("location", "")
    if problem := bad_location(location):
        return problem
    end = size_of(location)
    if isinstance(end, str):
        return end
    if start + length > end:
        return f"needs bytes {start} to {start + length} of {location}, which has {end}: it may be truncated"
    return Extent(location, start, start + length, tensor.name)


def bad_location(location: str) -> str | None:
    """Why a location is refused by its text alone: anything but a plain relative path below the folder."""
    shown = repr(location)[:60]
    if not location or len(location) > 1024 or "\0" in location:
        return f"external data location {shown} is empty, too long or holds NUL"
    if "_ORT_MEM_ADDR_" in location:
        return f"external data location {shown} is an address in memory"
    if "\\" in location or location.startswith("/") or re.match(r"[A-Za-z]:", location):
        return f"external data location {shown} is not relative to the model's folder"
    if any(part in ("", ".", "..") or len(part) > 255 for part in location.split("/")):
        return f"external data location {shown} is not a plain path below the model's folder"
    return None


def overlaps(extents: Iterable[Extent]) -> list[str]:
    """Pairs of tensors that share bytes."""
    ordered = sorted((e for e in extents if e.stop > e.start), key=lambda e: (e.file, e.start, e.stop))
    return [
        f"{a.tensor} and {b.tensor} share bytes of {a.file}"
        for a, b in pairwise(ordered) if a.file == b.file and b.start < a.stop
    ]


def _inline_fields(tensor: onnx.TensorProto) -> list[str]:
    fields = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
    found = [name for name in fields if len(getattr(tensor, name))]
    return [*found, "raw_data"] if tensor.HasField("raw_data") else found


def file_size(folder: Path, location: str) -> int | str:
    """Bytes of a regular file with one name and no link on the way to it, or what is wrong."""
    path = folder
    parts = location.split("/")
    for index, part in enumerate(parts):
        path = path / part
        try:
            status = os.lstat(path)
        except OSError as error:
            return f"external data file {location}: {error.strerror}"
        last = index == len(parts) - 1
        if not (stat.S_ISREG if last else stat.S_ISDIR)(status.st_mode):
            return f"external data {location}: {part} is a link or not a plain {'file' if last else 'folder'}"
    if status.st_nlink != 1:
        return f"external data file {location} has {status.st_nlink} hard links"
    return status.st_size
