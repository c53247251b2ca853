"""foldrank: smaller, faster, proven ONNX bundles from decoder language models.

The names in `__all__` are the public Python API; docs/policy.md says what may change of it. Each is imported when first
asked for, so that `import foldrank` needs neither torch nor onnxruntime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foldrank.bundle.bundle import Bundle, Manifest
    from foldrank.errors import (
        BundleError,
        CheckpointRefused,
        ExportError,
        FoldrankError,
        GraphNotRecognized,
        InvariantBroken,
        NotWritable,
        PassRefused,
        PlanFormatError,
        PlanMismatch,
        ProviderUnavailable,
        SourceError,
        UnsafeModel,
        ValidationFailed,
    )
    from foldrank.planfile.plan import Plan
    from foldrank.progress import Progress
    from foldrank.recipe import Recipe
    from foldrank.reports.limits import QualityLimits, SpeedLimits
    from foldrank.verbs.apply import apply
    from foldrank.verbs.bench import bench
    from foldrank.verbs.compress import compress
    from foldrank.verbs.diff import diff
    from foldrank.verbs.doctor import doctor
    from foldrank.verbs.export import export
    from foldrank.verbs.inspect import inspect
    from foldrank.verbs.package import package
    from foldrank.verbs.plan import plan
    from foldrank.verbs.push import push
    from foldrank.verbs.report import report
    from foldrank.verbs.run import run
    from foldrank.verbs.sbom import sbom
    from foldrank.verbs.selftest import selftest
    from foldrank.verbs.serve import serve
    from foldrank.verbs.sign import sign
    from foldrank.verbs.sweep import sweep
    from foldrank.verbs.validate import validate
    from foldrank.verbs.verify import verify

__version__ = "0.1.0"

__all__ = [
    "Bundle", "BundleError", "CheckpointRefused", "ExportError", "FoldrankError", "GraphNotRecognized",
    "InvariantBroken", "Manifest", "NotWritable", "PassRefused", "Plan", "PlanFormatError", "PlanMismatch", "Progress",
    "ProviderUnavailable", "QualityLimits", "Recipe", "SourceError", "SpeedLimits", "UnsafeModel", "ValidationFailed",
    "apply", "bench", "compress", "diff", "doctor", "export", "inspect", "package", "plan", "push", "report", "run",
    "sbom", "selftest", "serve", "sign", "sweep", "validate", "verify",
]

_HOMES = {
    "Bundle": "bundle.bundle", "Manifest": "bundle.bundle", "Plan": "planfile.plan", "Progress": "progress",
    "Recipe": "recipe", "QualityLimits": "reports.limits", "SpeedLimits": "reports.limits",
}
"""Modules of the types; every verb has one of its own, every other name is an error's."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'foldrank' has no attribute {name!r}")
        if name == "export":
            return importlib.import_module("foldrank.export")
        home = _HOMES.get(name) or (f"verbs.{name}" if name.islower() else "errors")
        return getattr(importlib.import_module(f"foldrank.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
