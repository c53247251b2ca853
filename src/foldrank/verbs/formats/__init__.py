"""The layouts of other tools that a bundle can be packaged as, by name. None is imported before it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from foldrank.bundle.bundle import Bundle, FileEntry
from foldrank.progress import Progress

Writer = Callable[[Bundle, Path, Progress], dict[str, FileEntry]]


@dataclass(frozen=True)
class Format:
    """Who writes it: `module:function`, which fills an empty folder, or where `file` writes that one file, and gives
    the digests that it took on the way. `whole`: it holds every file of the bundle."""

    by: str
    file: bool = False
    whole: bool = False

    def writer(self) -> Writer:
        """The function."""
        module, function = self.by.split(":")
        found: Writer = getattr(importlib.import_module(f"foldrank.verbs.formats.{module}"), function)
        return found


FORMATS = {
    "transformers.js": Format("transformers_js:write"),
    "triton": Format("triton:write", whole=True),
    "mlflow": Format("mlflow:write", whole=True),
    "ort": Format("ort:write"),
    "multi-lora": Format("multi_lora:write"),
    "docker": Format("docker:write", whole=True),
    "zip": Format("zipped:write", file=True, whole=True),
    "oci": Format("oci:write", file=True, whole=True),
}
"""A new format is a module beside this one and a line here."""


def format_of(name: str) -> Format:
    """The format of a name. Raises ValueError where there is none."""
    if name not in FORMATS:
        raise ValueError(f"no format {name!r}; one of {', '.join(FORMATS)}")
    return FORMATS[name]
