"""Reading JSON that may lack anything: a missing or misfitting value is None, never a guess and never a crash.

For configs, diagnostics and a manifest that is not written yet. Reports have schemas (`foldrank.reports`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def at(document: Any, *path: str) -> Any:
    """The value under nested keys, or None where a key is missing or what holds it is no object."""
    for key in path:
        if not isinstance(document, Mapping):
            return None
        document = document.get(key)
    return document


def number(document: Any, *path: str) -> float | None:
    """A finite number under the path."""
    value = at(document, *path)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def integer(document: Any, *path: str) -> int | None:
    """A whole number under the path."""
    value = number(document, *path)
    return int(value) if value is not None and value == int(value) else None


def text(document: Any, *path: str) -> str | None:
    """A non-empty string under the path."""
    value = at(document, *path)
    return value if isinstance(value, str) and value else None


def sentences(document: Any, *path: str) -> str | None:
    """The strings of a list under the path, as one."""
    value = at(document, *path)
    found = [item for item in value if isinstance(item, str) and item] if isinstance(value, list) else []
    return "; ".join(found) or None


def rows(document: Any, *path: str) -> list[Mapping[str, Any]]:
    """The objects of a list under the path; what is no object is left out."""
    value = at(document, *path)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def pairs(document: Any, *path: str) -> dict[str, Any]:
    """The object under the path, with string keys; empty where there is none."""
    value = at(document, *path)
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def numbers(document: Any, *path: str) -> list[float]:
    """A list of finite numbers under the path; empty where any item is something else."""
    value = at(document, *path)
    if not isinstance(value, list):
        return []
    found = [number({"_": item}, "_") for item in value]
    return [] if any(item is None for item in found) else [item for item in found if item is not None]
