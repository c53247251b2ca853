"""doctor: what is installed, which providers really start, and what to do about conflicts. Changes nothing."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from foldrank.errors import ProviderUnavailable
from foldrank.runtime.providers import environment, plugins
from foldrank.runtime.providers.fallback import probed
from foldrank.runtime.providers.provider import known, resolve
from foldrank.versions import versions


def doctor() -> dict[str, Any]:
    """`versions` by distribution, `providers` (name, available, starts, reason), `problems` (what, fix)."""
    installed = versions() | _more_versions()
    providers = [_provider(name) for name in known()]
    problems = environment.problems(installed)
    problems += [
        {"what": f"provider {p['name']} is offered, but does not start: {p['reason']}", "fix": _fix(p["name"])}
        for p in providers if p["available"] and not p["starts"]
    ]
    return {"versions": dict(sorted(installed.items())), "providers": providers, "problems": problems}


def _more_versions() -> dict[str, str]:
    found = {plugin.distribution: plugin.version for plugin in plugins.installed()}
    for name in environment.PROBED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _provider(name: str) -> dict[str, Any]:
    try:
        resolve(name)
    except ProviderUnavailable as error:
        return {"name": name, "available": False, "starts": False, "reason": error.what}
    return {"name": name, "available": True, **probed(name)}


def _fix(name: str) -> str:
    if name == "cpu":
        return "pip install --force-reinstall onnxruntime"
    if name == "cuda":
        return "check `nvidia-smi`, then that the CUDA and cuDNN libraries match onnxruntime-gpu's version"
    if name != "tensorrt":
        return "its package says what hardware and drivers it needs; or take --provider cpu"
    return "install TensorRT's libraries of the version onnxruntime-gpu was built for, or take --provider cuda"
