"""Providers that come as packages of their own, `onnxruntime-ep-*`: found by name, registered once, devices chosen.

A package has a module with `get_library_path` and `get_ep_name` (ONNX Runtime, "Plugin Execution Provider Libraries",
section Packaging). Its library is loaded into the process by `register_execution_provider_library`, and then offers
devices. Knows nothing of models and of how a session is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any

from foldrank.errors import ProviderUnavailable

PREFIX = "onnxruntime-ep-"
LONG_NAMES = {
    "openvino": "OpenVINOExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
"""Short name to the name ONNX Runtime uses, of packages we know; others are called as their package ends."""

PACKAGES = {
    "onnxruntime-ep-openvino": "openvino",
    "onnxruntime-ep-webgpu": "webgpu",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13": "tensorrt-rtx",
    "onnxruntime-ep-nv-tensorrt-rtx-cu12": "tensorrt-rtx",
}
"""Distribution to short name; of two with one name the first that is installed."""

SERVES = {
    "openvino": "it serves Intel's processors alone",
    "webgpu": "it needs a GPU and, on Linux, the Vulkan loader libvulkan.so.1",
    "tensorrt-rtx": "it needs an NVIDIA card of compute capability 8.6, 8.9, or 12.0 and later, and CUDA's driver",
}
GRAPHS = {"openvino": "standard", "webgpu": "standard", "tensorrt-rtx": "cuda"}
"""For whose kernels a plugin's graphs are written where that is not the CPU; `standard`: of ONNX's own operators alone.
OpenVINO's leaves GroupQueryAttention to ONNX Runtime; WebGPU's was seen to compute it wrongly (docs/gpu.md)."""

DEVICE = "device"
"""An option of ours, `cpu`, `gpu` or `npu`, for a plugin that offers several; `device_id` counts within the kind."""

OURS = (DEVICE, "device_id")
FIRST = {"openvino": "cpu"}
"""The kind of device where `device` says nothing; of others the first that is offered."""

_registered: set[str] = set()


@dataclass(frozen=True)
class Plugin:
    """An installed package."""

    short: str
    distribution: str
    version: str
    module: str

    @property
    def name(self) -> str:
        """ONNX Runtime's name of the provider. Raises ProviderUnavailable where the package does not tell."""
        return LONG_NAMES.get(self.short) or str(self.ask("get_ep_name"))

    def ask(self, function: str) -> Any:
        """What a function of its module gives. Raises ProviderUnavailable with whatever the package says instead."""
        try:
            return getattr(importlib.import_module(self.module), function)()
        except (ImportError, AttributeError, OSError, RuntimeError) as error:
            raise ProviderUnavailable(f"provider {self.short}", f"{self.distribution} {self.version}: {error}",
                                      f"pip install --force-reinstall {self.distribution}") from None


def installed() -> list[Plugin]:
    """Every package of that prefix with a module of its own, known ones first."""
    names = {str(found.metadata["Name"]).lower().replace("_", "-") for found in metadata.distributions()
             if str(found.metadata["Name"]).lower().replace("_", "-").startswith(PREFIX)}
    ordered = [*(name for name in PACKAGES if name in names), *sorted(names - PACKAGES.keys())]
    found: dict[str, Plugin] = {}
    for name in ordered:
        if plugin := _plugin(name):
            found.setdefault(plugin.short, plugin)
    return list(found.values())


def find(short: str) -> Plugin | None:
    """The package of a provider; None where none is installed."""
    names = [name for name, known in PACKAGES.items() if known == short] or [PREFIX + short]
    return next((plugin for name in names if (plugin := _plugin(name))), None)


def _plugin(distribution: str) -> Plugin | None:
    """None where it is not installed, or is a package without a module, which only asks for another."""
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return None
    modules = (found.read_text("top_level.txt") or "").split()
    if not modules:
        return None
    short = PACKAGES.get(distribution, distribution.removeprefix(PREFIX))
    return Plugin(short, distribution, found.version, modules[0])


def device(ort: ModuleType, short: str, options: Mapping[str, str]) -> Any:
    """The device, as ONNX Runtime's OrtEpDevice, that a session of this provider is to have; registers the library
    where this process has not yet.

    Raises ProviderUnavailable: no package, a library that does not load, no device of that kind or number.
    """
    plugin, where = find(short), f"provider {short}"
    if plugin is None:
        name = next((name for name, known in PACKAGES.items() if known == short), PREFIX + short)
        raise ProviderUnavailable(where, f"{name} is not installed", f"pip install {name}")
    _register(ort, plugin)
    offered = _offered(ort, plugin)
    kind = options.get(DEVICE, FIRST.get(short, "")).lower()
    fitting = [one for one in offered if not kind or kind_of(one) == kind]
    index = int(options.get("device_id", 0))
    if index >= len(fitting):
        which = " ".join(["no", *([kind] if kind else []), "device", *([str(index)] if fitting else [])])
        have = f"it has {', '.join(map(kind_of, offered))}" if offered else _serves(short)
        raise ProviderUnavailable(where, f"{plugin.distribution} {plugin.version} offers {which} here", have)
    return fitting[index]


def given(options: Mapping[str, str]) -> dict[str, str]:
    """Options without those that choose a device."""
    return {name: value for name, value in options.items() if name not in OURS}


def kind_of(device: Any) -> str:
    """`cpu`, `gpu` or `npu`, as ONNX Runtime says of the hardware."""
    return str(device.device.type.name).lower()


def names(found: Sequence[Plugin]) -> list[str]:
    """Short names of the known plugins and of those installed beside them."""
    return [*LONG_NAMES, *(plugin.short for plugin in found if plugin.short not in LONG_NAMES)]


def _register(ort: ModuleType, plugin: Plugin) -> None:
    """Once a process: a second time is an error, and sessions may hold what the library made."""
    if plugin.name in _registered or _offered(ort, plugin):
        return
    path, state = str(plugin.ask("get_library_path")), ort.capi.onnxruntime_pybind11_state
    try:
        ort.register_execution_provider_library(plugin.name, path)
    except (state.Fail, state.EPFail, state.InvalidArgument, state.NotFound, state.RuntimeException, RuntimeError
            ) as error:
        what = f"{plugin.distribution} {plugin.version} does not load: {' '.join(str(error).split())[:400]}"
        raise ProviderUnavailable(f"provider {plugin.short}", what, _serves(plugin.short)) from None
    _registered.add(plugin.name)


def _offered(ort: ModuleType, plugin: Plugin) -> list[Any]:
    return [one for one in ort.get_ep_devices() if one.ep_name == plugin.name]


def _serves(short: str) -> str:
    return SERVES.get(short, "its package tells what it needs")
