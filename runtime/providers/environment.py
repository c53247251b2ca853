"""Conflicts between installed packages, each with its fix. Knows names and versions; imports none of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

Problem = dict[str, str]

OLDEST_SAFE = {
    "onnx": ("1.23", "external data may escape the model's folder (CVE-2025-51480, CVE-2026-34445)"),
    "onnxruntime": ("1.30.1", "external data may inject pointers; kernels read out of bounds"),
    "onnxruntime-gpu": ("1.30.1", "external data may inject pointers; kernels read out of bounds"),
    "transformers": ("5.2.1", "a checkpoint's config can override trust_remote_code=False (CVE-2026-5241)"),
    "torch": ("2.6", "torch.load runs code even with weights_only (CVE-2025-32434)"),
    "sentencepiece": ("0.2.1", "known faults in reading crafted tokenizer models"),
    "protobuf": ("6.33.5", "known faults in reading crafted messages"),
}
"""The first version without the known fault, and the fault."""

TENSORRT = 10
"""Major version whose libnvinfer the supported builds of onnxruntime-gpu load."""

PROBED = ("foldrank", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "onnxruntime-genai",
          "onnxruntime-genai-cuda", "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "torch", "transformers", "optimum",
          "optimum-onnx", "sentencepiece", "protobuf", "safetensors", "tokenizers", "huggingface-hub")
"""Distributions whose versions matter."""


def number(version: str) -> tuple[int, ...]:
    """The release part of a version, for comparing: `2.13.0+cpu` is (2, 13, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def older(version: str, than: str) -> bool:
    """Whether a version comes before another; `1.30` equals `1.30.0`."""
    first, second = number(version), number(than)
    width = max(len(first), len(second))
    return first + (0,) * (width - len(first)) < second + (0,) * (width - len(second))


def problems(versions: Mapping[str, str]) -> list[Problem]:
    """Every conflict among installed versions by distribution name."""
    checks = (_missing, _twice, _unsafe, _cuda, _tensorrt, _optimum)
    return [problem for check in checks for problem in check(versions)]


def _missing(versions: Mapping[str, str]) -> Iterator[Problem]:
    if not versions.keys() & {"onnxruntime", "onnxruntime-gpu"}:
        yield _problem("no ONNX Runtime: validate, bench and run do not work", "pip install 'foldrank[cpu]'")
    if "torch" not in versions or "transformers" not in versions:
        yield _problem("no torch or no transformers: export and plan do not work", "pip install 'foldrank[torch]'")


def _twice(versions: Mapping[str, str]) -> Iterator[Problem]:
    here = versions.keys()
    if {"onnxruntime", "onnxruntime-gpu"} <= here:
        yield _problem("onnxruntime and onnxruntime-gpu write into one folder: whichever came last hides the other",
                       "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install the one you want")
    if {"onnxruntime-genai", "onnxruntime-genai-cuda"} <= here:
        yield _problem("onnxruntime-genai and onnxruntime-genai-cuda write into one folder",
                       "pip uninstall -y onnxruntime-genai onnxruntime-genai-cuda, then pip install the one you want")
    if {"onnxruntime-genai", "onnxruntime-gpu"} <= here:
        yield _problem("onnxruntime-genai is the CPU build and brings the CPU onnxruntime over onnxruntime-gpu",
                       "pip uninstall -y onnxruntime-genai onnxruntime; pip install onnxruntime-genai-cuda; "
                       "pip install --force-reinstall onnxruntime-gpu")
    if "onnxruntime-genai-cuda" in here and "onnxruntime-gpu" not in here:
        yield _problem("onnxruntime-genai-cuda without onnxruntime-gpu: it has no CUDA provider",
                       "pip install 'foldrank[gpu]'")


def _unsafe(versions: Mapping[str, str]) -> Iterator[Problem]:
    for name, (oldest, why) in OLDEST_SAFE.items():
        if name in versions and older(versions[name], oldest):
            yield _problem(f"{name} {versions[name]}: {why}", f"pip install '{name}>={oldest}'")


def _cuda(versions: Mapping[str, str]) -> Iterator[Problem]:
    """torch's CUDA libraries are the ones ONNX Runtime finds first in a process that imports both."""
    build = re.search(r"\+cu(\d+)\d$", versions.get("torch", ""))
    runtime = versions.get("onnxruntime-gpu")
    if build and runtime and not older(runtime, "1.31") and build[1] != "13":
        yield _problem(f"torch is built for CUDA {build[1]}, onnxruntime-gpu {runtime} for CUDA 13",
                       "install a torch for CUDA 13, or keep the two in separate environments")


def _tensorrt(versions: Mapping[str, str]) -> Iterator[Problem]:
    """ONNX Runtime loads libnvinfer of the major version, and for the CUDA, that it was built for."""
    runtime = versions.get("onnxruntime-gpu")
    if runtime is None:
        return
    held = {name: versions[name] for name in ("tensorrt", "tensorrt-cu12", "tensorrt-cu13") if name in versions}
    for name, version in held.items():
        if number(version)[:1] != (TENSORRT,):
            yield _problem(f"{name} {version} beside onnxruntime-gpu {runtime}, which loads TensorRT {TENSORRT}",
                           f"pip install 'tensorrt-cu13>={TENSORRT},<{TENSORRT + 1}'")
    if "tensorrt-cu12" in held and not older(runtime, "1.31"):
        yield _problem(f"tensorrt-cu12 is for CUDA 12, onnxruntime-gpu {runtime} for CUDA 13",
                       f"pip uninstall -y tensorrt-cu12; pip install 'tensorrt-cu13>={TENSORRT},<{TENSORRT + 1}'")


def _optimum(versions: Mapping[str, str]) -> Iterator[Problem]:
    if "optimum-onnx" in versions and not older(versions.get("transformers", "0"), "4.58"):
        yield _problem(f"optimum-onnx {versions['optimum-onnx']} needs transformers before 4.58, "
                       f"not {versions['transformers']}", "give optimum-onnx an environment of its own")


def _problem(what: str, fix: str) -> Problem:
    return {"what": what, "fix": fix}
