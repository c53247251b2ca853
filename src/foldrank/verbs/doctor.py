"""doctor: what is installed, which providers really start, and what to do about conflicts. Changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from foldrank import small_graphs
from foldrank.errors import ProviderUnavailable
from foldrank.runtime import environment
from foldrank.runtime.providers import LONG_NAMES, resolve
from foldrank.versions import versions

_SECONDS = 120


def doctor() -> dict[str, Any]:
    """`versions` by distribution, `providers` (name, available, starts, reason), `problems` (what, fix)."""
    installed = versions() | _more_versions()
    providers = [_provider(name) for name in LONG_NAMES]
    problems = environment.problems(installed)
    problems += [
        {"what": f"provider {p['name']} is offered, but does not start: {p['reason']}", "fix": _fix(p["name"])}
        for p in providers if p["available"] and not p["starts"]
    ]
    return {"versions": dict(sorted(installed.items())), "providers": providers, "problems": problems}


def _more_versions() -> dict[str, str]:
    found = {}
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
    return {"name": name, "available": True, **_probe(name)}


def _probe(name: str) -> dict[str, Any]:
    """Start the provider in a child process with a one-node graph."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        model.write_bytes(small_graphs.square())
        command = [sys.executable, "-m", "foldrank.runtime.probe", name, str(model)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, cwd=folder, check=False,
                                  env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"})
        except subprocess.TimeoutExpired:
            return {"starts": False, "reason": f"did not answer within {_SECONDS} s"}
    if done.returncode < 0:
        return {"starts": False, "reason": f"its process was ended by {signal.Signals(-done.returncode).name}"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"starts": False, "reason": lines[-1][:400] if lines else f"exit code {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _fix(name: str) -> str:
    if name == "cpu":
        return "pip install --force-reinstall onnxruntime"
    if name == "cuda":
        return "check `nvidia-smi`, then that the CUDA and cuDNN libraries match onnxruntime-gpu's version"
    return "install TensorRT's libraries of the version onnxruntime-gpu was built for, or take --provider cuda"
