"""Does a provider really start; and the CPU in its place, but only where a user allowed that, with the reason kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldrank import small_graphs
from foldrank.errors import ProviderUnavailable
from foldrank.runtime.providers.provider import Provider, resolve, short_name
from foldrank.runtime.providers.tensorrt_profile import GIVEN, RTX, check_options

_SECONDS = 120
_PROFILED = {"tensorrt": GIVEN, "tensorrt-rtx": RTX}


def provider_for(name: str, options: Mapping[str, str] | None = None, *, allow_fallback: bool = False) -> Provider:
    """The provider asked for. With `allow_fallback` the CPU where it is not there or does not start; `instead_of` says
    why. Its options go with it. Raises ProviderUnavailable otherwise, and for a name nobody knows; ValueError for
    shape profiles that make no sense."""
    short = short_name(name)
    try:
        on = resolve(name, options)
    except ProviderUnavailable as error:
        if not allow_fallback or short == "cpu":
            raise
        return Provider("cpu", instead_of=f"{short}: {error.what}")
    if short in _PROFILED:
        check_options(on.options, _PROFILED[short])
    if allow_fallback and short != "cpu":
        found = probed(short)
        if not found["starts"]:
            return Provider("cpu", instead_of=f"{short}: {found['reason']}")
    return on


def check_starts(name: str, options: Mapping[str, str] | None = None) -> None:
    """Before long work that ends on a provider. Raises as `provider_for` does, and ProviderUnavailable where it does
    not start."""
    on = provider_for(name, options)
    if on.short == "cpu":
        return
    found = probed(on.short)
    if not found["starts"]:
        raise ProviderUnavailable(f"provider {on.short}", found["reason"], "`foldrank doctor` tells more")


def probed(name: str) -> dict[str, Any]:
    """`starts` and the `reason` if not: the provider started in a child process with a one-node graph."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        model.write_bytes(small_graphs.square())
        command = [sys.executable, "-m", "foldrank.runtime.sessions.probe", name, str(model)]
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
