"""foldrank: smaller, faster, proven ONNX bundles from decoder language models.

The verbs of the command line are functions here (`foldrank.compress`, ...), each imported when first asked for, so that
`import foldrank` needs neither torch nor onnxruntime.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_VERBS = ("apply", "bench", "compress", "diff", "doctor", "inspect", "package", "plan", "push", "report", "run", "sbom",
          "selftest", "serve", "sign", "sweep", "validate", "verify")

__all__ = [*_VERBS, "export"]


def __getattr__(name: str) -> Any:
    if name == "export":
        return importlib.import_module("foldrank.export")
    if name in _VERBS:
        return getattr(importlib.import_module(f"foldrank.verbs.{name}"), name)
    raise AttributeError(f"module 'foldrank' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
