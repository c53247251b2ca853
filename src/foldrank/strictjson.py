"""JSON as our files hold it: sorted keys, indent 2, a newline at the end; read with nothing left to interpretation.

The one reader: a text is bounded in bytes, depth and number of values before it is parsed, and whatever is wrong with
it is a JsonError.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from foldrank.plainfile import NotPlain, open_plain, why_not
from foldrank.pointers import refuse_pointer

MAX_BYTES = 32 << 20
MAX_DEPTH = 64
MAX_VALUES = 1 << 20
"""Commas and opening brackets, which is at least as many as there are values: some 100 MB once parsed."""

_BRACKETS_OR_STRINGS = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*+"')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonError(ValueError):
    """The text is not JSON, is no plain file, or uses what our files never do: NaN, a number beyond all floats, half of
    a surrogate pair, a repeated key, deep nesting, a huge file."""


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
    if sum(map(text.count, ",[{")) > MAX_VALUES:
        raise JsonError(f"holds more than {MAX_VALUES:,} values")
    if _too_deep(text):
        raise JsonError(f"nested deeper than {MAX_DEPTH} levels")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_float=float if foreign else _finite,
                           parse_constant=float if foreign else _constant)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except JsonError:
        raise
    except UnicodeEncodeError:
        raise JsonError("a text in it holds half of a surrogate pair") from None
    except ValueError as error:  # a number of more digits than Python reads is one too
        raise JsonError(f"not JSON: {error}") from None
    return value


def read(path: Path, *, follow: bool = True) -> Any:
    """Parse a file strictly, `follow`: through a link too. Raises JsonError, OSError, and SourceError for a Git LFS
    pointer."""
    return loads(_text(path, follow))


def read_foreign(path: Path) -> Any:
    """Parse a file of a checkpoint: strictly, but for a byte order mark and the `Infinity` that transformers writes.

    Raises what `read` raises.
    """
    return loads(_text(path, follow=True).removeprefix("\ufeff"), foreign=True)


def _text(path: Path, follow: bool) -> str:
    refuse_pointer(path, follow=follow)
    try:
        with open_plain(path, follow=follow) as file:
            data = file.read(MAX_BYTES + 1)
    except NotPlain as error:
        raise JsonError(why_not(error)) from None
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
        seen = set[str]()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise JsonError(f"key {twice!r} stands twice")
    return keys


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise JsonError(f"{digits} is beyond all floats")
    return value


def _constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is not JSON")
