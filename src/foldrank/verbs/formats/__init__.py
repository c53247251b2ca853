"""The layouts of other tools that a bundle can be packaged as, by name. None is imported before it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from foldrank.bundle.bundle import Bundle, FileEntry
from foldrank.progress import Progress

FORMATS = {
    "transformers.js": "foldrank.verbs.formats.transformers_js:write",
}
"""Each function fills an empty folder from a bundle and gives the digests that it took while writing."""

Writer = Callable[[Bundle, Path, Progress], dict[str, FileEntry]]


def writer(name: str) -> Writer:
    """The function that writes a format. Raises ValueError where there is no such format."""
    if name not in FORMATS:
        raise ValueError(f"no format {name!r}; one of {', '.join(FORMATS)}")
    module, function = FORMATS[name].split(":")
    found: Writer = getattr(importlib.import_module(module), function)
    return found
