"""Which libraries are installed, asked without importing them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from importlib import metadata

from foldrank.errors import ProviderUnavailable


def require(libraries: Mapping[str, str]) -> None:
    """Raise ProviderUnavailable naming every library that is not installed, with the extra that brings it."""
    if lacking := missing(libraries):
        extras = ",".join(sorted({libraries[name] for name in lacking}))
        raise ProviderUnavailable(", ".join(lacking), "is not installed", f"pip install 'foldrank[{extras}]'")


def missing(libraries: Iterable[str]) -> list[str]:
    """Those that are not installed."""
    return [name for name in libraries if not _installed(name)]


def release(distribution: str) -> tuple[int, int]:
    """The first two numbers of an installed distribution's version. Raises PackageNotFoundError."""
    found = re.match(r"(\d+)(?:\.(\d+))?", metadata.version(distribution))
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ValueError, ModuleNotFoundError):  # half a module; a package above a dotted name
        return False
