"""Versions of what took part, for plans, manifests and reports."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

_PARTS = ("foldrank", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "onnxruntime-genai",
          "onnxruntime-genai-cuda", "torch", "transformers", "safetensors")


def versions() -> dict[str, str]:
    """Installed version by distribution name, and Python's; what is not installed is left out."""
    return dict(_installed())


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    """Looking them up reads a file each, some milliseconds in all, and they do not change while a process runs."""
    found = [("python", platform.python_version())]
    for name in _PARTS:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return tuple(found)
