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
from typing import Literal

from foldrank.errors import ProviderUnavailable
from foldrank.runtime.providers import plugins

LONG_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Short name to the name ONNX Runtime uses, of those that may be built into it; `plugins.py` has the others."""

Processor = Literal["cpu", "nvidia", "other"]
_SHORT_NAMES = {long: short for names in (LONG_NAMES, plugins.LONG_NAMES) for short, long in names.items()}
_PROCESSORS: dict[str, Processor] = {"cpu": "cpu", "cuda": "nvidia", "tensorrt": "nvidia", "tensorrt-rtx": "nvidia"}
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
        """ONNX Runtime's name, e.g. `CPUExecutionProvider`. Raises ProviderUnavailable for a plugin that went."""
        if not self.plugged:
            return LONG_NAMES[self.short]
        plugin = plugins.find(self.short)
        return plugins.LONG_NAMES[self.short] if plugin is None else plugin.name

    @property
    def plugged(self) -> bool:
        """Whether it comes as a package of its own (`plugins.py`)."""
        return self.short not in LONG_NAMES

    @property
    def device(self) -> str:
        """Where tensors of ours live, as OrtValue names it: `cpu` or `cuda`. Plugins copy from host memory and back."""
        return "cpu" if self.plugged or self.short == "cpu" else "cuda"

    @property
    def processor(self) -> Processor:
        """What computes: this machine's `cpu`, a card of `nvidia`'s, or some `other`."""
        if self.options.get(plugins.DEVICE, plugins.FIRST.get(self.short, "")).lower() == "cpu":
            return "cpu"
        return _PROCESSORS.get(self.short, "other")

    @property
    def device_id(self) -> int:
        """Which of several devices; the provider's own option says so."""
        return int(self.options.get("device_id", 0))


def short_name(name: str) -> str:
    """`cpu` for `CPUExecutionProvider` and for `cpu`. Raises ProviderUnavailable on a name nobody knows."""
    short = _SHORT_NAMES.get(name, name.lower())
    if short not in LONG_NAMES and short not in plugins.LONG_NAMES and plugins.find(short) is None:
        raise ProviderUnavailable(
            f"provider {name}", "is not known", f"one of {', '.join([*known(), *_SHORT_NAMES])}"
        )
    return short


def graphs_of(short: str) -> str:
    """For whose kernels graphs are written that a provider runs, as exporters name them."""
    return short if short in LONG_NAMES else plugins.GRAPHS.get(short, "cpu")


def known() -> list[str]:
    """Short names of all providers there may be, and of every plugin that is installed beside them."""
    return [*LONG_NAMES, *plugins.names(plugins.installed())]


def resolve(name: str, options: Mapping[str, str] | None = None) -> Provider:
    """The provider of that short or long name. Raises ProviderUnavailable where the installed library lacks it.

    That its libraries load and its device answers only a session can tell: `open_session` checks it.
    """
    short = short_name(name)
    ort = load_onnxruntime()
    if short not in LONG_NAMES:
        plugins.device(ort, short, options or {})
        return Provider(short, dict(options or {}))
    available = ort.get_available_providers()
    if LONG_NAMES[short] not in available:
        have = ", ".join(_SHORT_NAMES[p] for p in available if _SHORT_NAMES.get(p) in LONG_NAMES)
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
