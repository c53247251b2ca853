"""The machine and the libraries a benchmark ran on, as far as they bear on speed. No host or user names."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import psutil

from foldrank.versions import versions

_CPU = Path("/sys/devices/system/cpu/cpu0")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def environment(threads: int) -> dict[str, Any]:
    """JSON-able description; null where the system does not tell."""
    return {
        "cpu_model": cpu_model(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "allowed_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": threads,
        "last_level_cache_bytes": last_level_cache_bytes(),
        "memory_bytes": psutil.virtual_memory().total,
        "governor": _text(_CPU / "cpufreq" / "scaling_governor"),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "versions": versions(),
    }


def cpu_model() -> str | None:
    """Model name of the first processor."""
    found = re.search(r"^model name\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    return found[1] if found else platform.processor() or None


def last_level_cache_bytes() -> int | None:
    """Size of the largest cache the first core sees."""
    sizes = [_text(path / "size") for path in sorted((_CPU / "cache").glob("index*"))]
    found = [int(size[:-1]) * _UNITS[size[-1]] for size in sizes if size and size[-1] in _UNITS]
    return max(found, default=None)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
