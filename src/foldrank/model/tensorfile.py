"""The header of a safetensors file, read by hand and proved before anything trusts it: what lies where.

Knows bytes. Knows nothing of models.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from foldrank import strictjson
from foldrank.errors import CheckpointRefused, SourceError
from foldrank.plainfile import open_plain, why_not
from foldrank.pointers import refuse_pointer

_MAX_HEADER = 100 << 20
_DOWNLOAD = "fetch the file again"

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""safetensors' dtype names."""


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: bytes `start` to `end` of the file, as stored."""

    path: Path
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Every tensor by name. Raises SourceError: truncated, holes or overlaps, sizes that disagree, unknown dtypes."""
    refuse_pointer(path)
    try:
        with open_plain(path) as file:
            size, header, base = header_of(file, _MAX_HEADER)
        tensors = {
            name: _entry(path, base, name, entry) for name, entry in header.items() if name != "__metadata__"
        }
    except (strictjson.JsonError, ValueError, KeyError, TypeError, struct.error) as error:
        raise CheckpointRefused(path, f"bad safetensors header: {error}", _DOWNLOAD) from None
    except OSError as error:
        raise SourceError(path, why_not(error), _DOWNLOAD) from None
    _check_cover(path, base, size, tensors)
    return tensors


def header_of(file: BufferedReader, most: int) -> tuple[int, dict[str, Any], int]:
    """The file's size, what its header of at most so many bytes says, and where that ends. Raises ValueError (JsonError
    among them), struct.error and OSError."""
    size = os.fstat(file.fileno()).st_size
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(most, size - 8):
        raise ValueError(f"it claims {length} bytes, the file has {size}")
    header = strictjson.loads(file.read(length).decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("not an object")
    return size, header, 8 + length


def _entry(path: Path, base: int, name: str, entry: dict[str, Any]) -> StoredTensor:
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"{name}: dtype {entry['dtype']} is not known")
    dtype, shape, (start, end) = DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, start, end)):
        raise ValueError(f"{name}: shape and offsets must be numbers from 0 up")
    if end - start != prod(shape) * dtype.itemsize:
        raise ValueError(f"{name}: {end - start} bytes for {dtype} of shape {shape}")
    return StoredTensor(path, name, dtype, shape, base + start, base + end)


def _check_cover(path: Path, base: int, size: int, tensors: dict[str, StoredTensor]) -> None:
    """The tensors fill the file without hole or overlap."""
    position = base
    for tensor in sorted(tensors.values(), key=lambda t: (t.start, t.end)):
        if tensor.start != position:
            what = f"{tensor.name}: overlaps another tensor or leaves a hole before it"
            raise CheckpointRefused(path, what, _DOWNLOAD)
        position = tensor.end
    if position != size:
        kind = "truncated" if size < position else "too long"
        raise SourceError(path, f"{kind}: its header speaks of {position} bytes, the file has {size}", _DOWNLOAD)
