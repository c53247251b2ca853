"""The exporters by name, as `module:function`, so that none is imported before it is chosen."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

EXPORTERS = {
    "genai": "foldrank.export.genai:export",
    "transformers": "foldrank.export.standard:by_transformers",
    "optimum": "foldrank.export.standard:by_optimum",
}


def exporter(name: str) -> tuple[str, Callable[..., Any]]:
    """Name and function; "auto" is genai. Raises ValueError (no such name)."""
    chosen = "genai" if name == "auto" else name
    if chosen not in EXPORTERS:
        raise ValueError(f"no exporter {name!r}; one of auto, {', '.join(EXPORTERS)}")
    module, function = EXPORTERS[chosen].split(":")
    return chosen, getattr(importlib.import_module(module), function)
