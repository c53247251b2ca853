"""Execution providers: one name in, one that really exists out, or ProviderUnavailable with the reason.

Knows which libraries are installed. Knows nothing of models. Never falls back to another provider in silence.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType

from foldrank.errors import ProviderUnavailable

LONG_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Short name to the name ONNX Runtime uses."""

_SHORT_NAMES = {long: short for short, long in LONG_NAMES.items()}
_WAY_OUT = {
    "cpu": "pip install 'foldrank[cpu]'",
    "cuda": "pip install 'foldrank[gpu]' in an environment without the CPU packages, on a machine with a CUDA driver",
    "tensorrt": "pip install 'foldrank[gpu]' and TensorRT's libraries",
}


@dataclass(frozen=True)
class Provider:
    """A provider this installation offers, with the options handed to it as they are."""

    short: str
    options: Mapping[str, str] = field(default_factory=dict)
    instead_of: str | None = None
    """What was asked for and why it is not this: only where a fallback was allowed (`fallback.py`)."""

    @property
    def name(self) -> str:
        """ONNX Runtime's name, e.g. `CPUExecutionProvider`."""
        return LONG_NAMES[self.short]

    @property
    def device(self) -> str:
        """Where tensors live, as OrtValue names it: `cpu` or `cuda`."""
        return "cpu" if self.short == "cpu" else "cuda"

    @property
    def device_id(self) -> int:
        """Which of several devices; the provider's own option says so."""
        return int(self.options.get("device_id", 0))


def short_name(name: str) -> str:
    """`cpu` for `CPUExecutionProvider` and for `cpu`. Raises ProviderUnavailable on a name nobody knows."""
    short = _SHORT_NAMES.get(name, name.lower())
    if short not in LONG_NAMES:
        raise ProviderUnavailable(
            f"provider {name}", "is not known", f"one of {', '.join([*LONG_NAMES, *_SHORT_NAMES])}"
        )
    return short


def resolve(name: str, options: Mapping[str, str] | None = None) -> Provider:
    """The provider of that short or long name. Raises ProviderUnavailable where the installed library lacks it.

    That its libraries load and its device answers only a session can tell: `open_session` checks it.
    """
    short = short_name(name)
    ort = load_onnxruntime()
    available = ort.get_available_providers()
    if LONG_NAMES[short] not in available:
        have = ", ".join(_SHORT_NAMES[p] for p in available if p in _SHORT_NAMES)
        what = f"onnxruntime {ort.__version__} here has only {have}"
        raise ProviderUnavailable(f"provider {short}", what, _WAY_OUT[short])
    if short != "cpu":
        _preload(ort)
    return Provider(short, dict(options or {}))


def _preload(ort: ModuleType) -> None:
    """Load CUDA's and cuDNN's libraries from their Python packages, where they are; what is missing a session tells."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()


def load_onnxruntime() -> ModuleType:
    """The onnxruntime module, telemetry off before it is imported. Raises ProviderUnavailable."""
    ort = _load("onnxruntime")
    ort.set_default_logger_severity(3)
    return ort


def load_genai() -> ModuleType:
    """The onnxruntime_genai module, telemetry off. Raises ProviderUnavailable."""
    load_onnxruntime()
    return _load("onnxruntime_genai")


def _load(name: str) -> ModuleType:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    os.environ.pop("ORT_LOAD_CONFIG_FROM_MODEL", None)  # a model's metadata would set session options
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        raise ProviderUnavailable(name, "is not installed", _WAY_OUT["cpu"]) from None
    except ImportError as error:
        raise ProviderUnavailable(name, f"does not load: {error}", "reinstall it: `foldrank doctor`") from None
    if not hasattr(module, "__version__"):  # a folder left by an uninstalled wheel imports as an empty namespace
        raise ProviderUnavailable(name, "is installed in part only", f"pip install --force-reinstall {name}")
    if hasattr(module, "disable_telemetry_events"):
        module.disable_telemetry_events()
    return module
