"""factors.safetensors: arrays by name, of float32 or of bytes, proved before the first is read.

The header is checked by hand, since the plan may come from a stranger: no holes, no overlaps, nothing but F32 and U8.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from foldrank.errors import PlanFormatError
from foldrank.model.tensorfile import header_of
from foldrank.plainfile import open_plain, why_not
from foldrank.verified import sha256_of

_MAX_HEADER = 16 << 20

_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}


def write_factors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays: uint8 as they are, others as float32. Raises ValueError on NaN or infinity, since such a plan is
    never written; OSError."""
    ready = {name: np.ascontiguousarray(array, dtype=np.uint8 if array.dtype == np.uint8 else np.float32)
             for name, array in arrays.items()}
    if bad := [name for name, array in ready.items() if not np.isfinite(array).all()]:
        raise ValueError(f"not finite: {', '.join(bad[:5])}")
    try:
        save_file(ready, str(path))
    except SafetensorError as error:  # a full disk, for one
        raise OSError(errno.EIO, str(error), str(path)) from None
    path.chmod(0o644)  # safetensors writes for the owner alone; a plan is made to be shared


@dataclass(frozen=True)
class FactorFile(Mapping[str, np.ndarray]):
    """Arrays of a checked file, each read when asked for and checked to be finite then. `in_bytes`: names of those that
    are uint8."""

    path: Path
    base: int
    shapes: dict[str, tuple[int, ...]]
    offsets: dict[str, int]
    in_bytes: frozenset[str] = frozenset()

    @classmethod
    def open(cls, path: Path, sha256: str, size: int) -> FactorFile:
        """Check size, digest and header. Raises PlanFormatError."""
        try:
            with open_plain(path, follow=False) as file:
                if os.fstat(file.fileno()).st_size != size or sha256_of(path) != sha256:
                    raise PlanFormatError(path, "differs from what plan.json says (sha256)", "plan again")
                _, header, base = header_of(file, _MAX_HEADER)
        except OSError as error:
            raise PlanFormatError(path, why_not(error), "plan again") from None
        except (ValueError, struct.error) as error:
            raise PlanFormatError(path, f"bad safetensors header: {error}", "plan again") from None
        header.pop("__metadata__", None)
        try:
            shapes, offsets = _layout(header, size - base)
            in_bytes = frozenset(name for name, entry in header.items() if entry["dtype"] == "U8")
        except (ValueError, KeyError, TypeError) as error:
            raise PlanFormatError(path, f"bad safetensors header: {error}", "plan again") from None
        return cls(path, base, shapes, offsets, in_bytes)

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self.shapes[name]
        dtype = _DTYPES["U8" if name in self.in_bytes else "F32"]
        array = np.fromfile(
            self.path, dtype=dtype, count=prod(shape), offset=self.base + self.offsets[name]
        ).reshape(shape)
        if not np.isfinite(array).all():
            raise PlanFormatError(self.path, f"{name} holds NaN or infinity", "plan again")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def _layout(header: dict[str, Any], size: int) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    shapes, offsets, spans = {}, {}, []
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{name} is {entry['dtype']}, not {' or '.join(_DTYPES)}")
        each = _DTYPES[entry["dtype"]].itemsize
        if not all(type(d) is int and d > 0 for d in shape) or end - start != each * prod(shape):
            raise ValueError(f"{name}: shape {shape} does not fit its {end - start} bytes")
        shapes[name], offsets[name] = shape, start
        spans.append((start, end))
    position = 0
    for start, end in sorted(spans):
        if start != position:
            raise ValueError(f"a hole or an overlap at byte {position}")
        position = end
    if position != size:
        raise ValueError(f"data ends at {position}, the file at {size}")
    return shapes, offsets
