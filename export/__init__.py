"""Exporters: a checkpoint to a dense bundle. `foldrank.export(...)` is the verb itself: this module can be called."""

import sys
import types
from typing import Any

if not __name__.startswith("foldrank."):  # found as a top-level folder: a second copy with unequal classes
    raise ImportError(f"import foldrank.{__name__}, not {__name__}")


class _Verb(types.ModuleType):
    """`import foldrank.plans` binds this package to the name `foldrank.export`, which is also a verb: serve both."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from foldrank.verbs.export import export

        return export(*args, **options)


sys.modules[__name__].__class__ = _Verb
