"""The exporters by name, as `module:function`, so that none is imported before it is chosen."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from foldrank.errors import ExportError

EXPORTERS = {"genai": "foldrank.export.genai:export"}
"""Those that work."""

PLANNED = ("transformers", "optimum")
"""Names of the contract that later versions will serve."""


def exporter(name: str) -> tuple[str, Callable[..., Any]]:
    """Name and function; "auto" chooses. Raises ExportError (not there yet), ValueError (no such name)."""
    if name in PLANNED:
        raise ExportError(f"exporter {name}", "is not available yet in this version", "--exporter genai")
    chosen = "genai" if name == "auto" else name
    if chosen not in EXPORTERS:
        raise ValueError(f"no exporter {name!r}; one of auto, {', '.join((*EXPORTERS, *PLANNED))}")
    module, function = EXPORTERS[chosen].split(":")
    return chosen, getattr(importlib.import_module(module), function)
