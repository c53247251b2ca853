"""Joules of a processor package (RAPL, where it may be read) or of a GPU (NVML).

Counters tick a few tens of times a second, so a span of seconds is measured, idle power with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foldrank.runtime.providers.gpu import Gpu
from foldrank.runtime.providers.provider import Provider

_RAPL = Path("/sys/class/powercap")
Counter = Callable[[], float | None]


def energy_counter(provider: Provider, rapl: Path = _RAPL) -> tuple[Counter, str]:
    """What reads joules so far, and its name; one that always says None where nothing can be read."""
    if provider.processor != "cpu":
        card = Gpu.of(provider)
        return (card.energy_j, "NVML, whole card") if card else (lambda: None, "no NVML")
    packages = sorted(path / "energy_uj" for path in rapl.glob("intel-rapl:*") if path.name.count(":") == 1)
    try:
        for path in packages:
            path.read_text()
    except OSError:
        packages = []
    if not packages:
        return lambda: None, "RAPL cannot be read"
    return lambda: sum(int(path.read_text()) for path in packages) / 1e6, "RAPL, all packages"
