"""Versions of what took part, for plans, manifests and reports."""

from __future__ import annotations

import platform
from importlib import metadata

_PARTS = ("foldrank", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "onnxruntime-genai",
          "onnxruntime-genai-cuda", "torch", "transformers", "safetensors")


def versions() -> dict[str, str]:
    """Installed version by distribution name, and Python's; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in _PARTS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
