"""TensorRT's libraries: found and loaded before ONNX Runtime asks for them, or an error that says where they come from.

ONNX Runtime's TensorRT provider is linked to libnvinfer, its plugins and its ONNX parser by name, and finds what this
process has loaded already; the Python packages keep them where the system's loader does not look. Not verified on
hardware: tested with libraries that only pretend.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from foldrank.errors import ProviderUnavailable
from foldrank.runtime.providers.environment import TENSORRT
from foldrank.runtime.providers.provider import load_onnxruntime

PACKAGES = ("tensorrt_libs", "tensorrt")
"""Folders in which the distributions `tensorrt-cu13-libs` and older `tensorrt` keep the libraries."""

_LIBRARIES = ("libnvinfer.so", "libnvinfer_plugin.so", "libnvonnxparser.so")
_WHERE = "provider tensorrt"
_WAY_OUT = (f"pip install 'tensorrt-cu13>={TENSORRT},<{TENSORRT + 1}' (TensorRT {TENSORRT} for CUDA 13), or put the "
            "folder with NVIDIA's libraries on LD_LIBRARY_PATH")

Opener = Callable[[str], Any]


def load_tensorrt(opener: Opener | None = None, folders: Sequence[Path] | None = None) -> str:
    """Load the libraries for the whole process; gives TensorRT's version, e.g. `10.16.1`.

    `opener`: what opens a library by name or path, raising OSError; `folders`: where to look besides the system.
    Raises ProviderUnavailable where one is missing, does not load, or is of another major version.
    """
    opener = opener or _for_all
    folders = package_folders() if folders is None else folders
    held = [_open(f"{name}.{TENSORRT}", opener, folders) for name in _LIBRARIES]
    return version_text(held[0].getInferLibVersion())


def version_text(number: int) -> str:
    """`10.16.1` for 101601: NvInferVersion.h makes it of major, minor and patch, two digits each since version 10."""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def package_folders() -> list[Path]:
    """Folders of the Python packages that bring TensorRT, as far as they are installed; none is imported."""
    found = (importlib.util.find_spec(name) for name in PACKAGES)
    return [Path(place) for spec in found if spec for place in spec.submodule_search_locations or ()]


def _for_all(name: str) -> Any:
    """So that libraries loaded later find it."""
    return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)


def _open(name: str, opener: Opener, folders: Sequence[Path]) -> Any:
    reason = ""
    for candidate in (name, *(str(folder / name) for folder in folders if (folder / name).is_file())):
        try:
            return opener(candidate)
        except OSError as error:
            text = " ".join(str(error).split())
            if not text.startswith(f"{name}:"):  # else it is not there: the loader names what it does not find
                reason = text
    if reason:
        raise ProviderUnavailable(_WHERE, f"TensorRT's {name} does not load: {reason[:400]}", _WAY_OUT)
    if _has(f"{_LIBRARIES[0]}.{TENSORRT + 1}", opener, folders):
        built = f"onnxruntime {load_onnxruntime().__version__} is built for TensorRT {TENSORRT}"
        what = f"TensorRT's {name} is missing: version {TENSORRT + 1} is here, but {built}"
        raise ProviderUnavailable(_WHERE, what, _WAY_OUT)
    raise ProviderUnavailable(_WHERE, f"TensorRT's {name} is missing", _WAY_OUT)


def _has(name: str, opener: Opener, folders: Sequence[Path]) -> bool:
    if any((folder / name).is_file() for folder in folders):
        return True
    try:
        opener(name)
    except OSError:
        return False
    return True
