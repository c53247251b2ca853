"""JSON as our files hold it: sorted keys, indent 2, a newline at the end; read with nothing left to interpretation."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from foldrank.pointers import refuse_pointer

MAX_BYTES = 32 << 20
MAX_DEPTH = 64

_BRACKETS_OR_STRINGS = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*+"')


class JsonError(ValueError):
    """The text is not JSON, or uses what our files never do: NaN, a repeated key, deep nesting, a huge file."""


def dumps(value: Any) -> str:
    """Canonical text. Raises ValueError on NaN or infinity."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def tagged(value: Any) -> Any:
    """The value with `{"__float__": "Infinity"}` for what JSON has no number for, as transformers 5 does it."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": json.dumps(value)}
    if isinstance(value, dict):
        return {key: tagged(inner) for key, inner in value.items()}
    return [tagged(inner) for inner in value] if isinstance(value, list) else value


def loads(text: str, *, foreign: bool = False) -> Any:
    """Parse strictly. `foreign`: as Python's own json writes, `Infinity` and `NaN` are numbers. Raises JsonError."""
    if _too_deep(text):
        raise JsonError(f"nested deeper than {MAX_DEPTH} levels")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=float if foreign else _constant)
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON: {error}") from None


def read(path: Path) -> Any:
    """Parse a file strictly. Raises JsonError, OSError, and SourceError for a Git LFS pointer."""
    return loads(_text(path))


def read_foreign(path: Path) -> Any:
    """Parse a file of a checkpoint: strictly, but for a byte order mark and the `Infinity` that transformers writes.

    Raises what `read` raises.
    """
    return loads(_text(path).removeprefix("\ufeff"), foreign=True)


def _text(path: Path) -> str:
    refuse_pointer(path)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a FIFO is not waited for
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise JsonError("not a plain file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise JsonError(f"larger than {MAX_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonError(f"not UTF-8: {error}") from None


def reasons(error: ValidationError, most: int = 5) -> str:
    """One line for what a schema found wrong: `edits.3.rank: Input should be a valid integer | ...`."""
    return " | ".join(
        f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors(include_url=False)[:most]
    )


def _too_deep(text: str) -> bool:
    """Counted before parsing, since the parser itself recurses; strings are skipped."""
    depth = 0
    for token in _BRACKETS_OR_STRINGS.finditer(text):
        char = token.group()
        depth += (char in "[{") - (char in "]}")
        if depth > MAX_DEPTH:
            return True
    return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        names = [k for k, _ in pairs]
        raise JsonError(f"key {next(k for k in names if names.count(k) > 1)!r} stands twice")
    return keys


def _constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is not JSON")
