"""What an NVIDIA GPU says of itself, through nvidia-ml-py: name, memory, clocks, power, throttling, energy.

Every figure is None where the library or the card does not tell. Changes no setting.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from foldrank.runtime.providers.provider import Provider

THROTTLES = {
    0x1: "idle", 0x2: "application clocks", 0x4: "software power cap", 0x8: "hardware slowdown", 0x10: "sync boost",
    0x20: "software thermal", 0x40: "hardware thermal", 0x80: "hardware power brake", 0x100: "display clocks",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons (NVML API reference, group nvmlClocksEventReasons)."""


class Gpu:
    """One card. Use `open`."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    @classmethod
    def open(cls, index: int = 0) -> Gpu | None:
        """The card of that index as the driver counts; None without nvidia-ml-py, a driver or the card."""
        return next(iter(cls._opened(lambda _: (index,))), None)

    @classmethod
    def all(cls) -> list[Gpu]:
        """Every card the driver counts; none without nvidia-ml-py or a driver."""
        return cls._opened(lambda library: range(library.nvmlDeviceGetCount()))

    @classmethod
    def _opened(cls, indices: Callable[[Any], Iterable[int]]) -> list[Gpu]:
        try:
            import pynvml
        except ImportError:
            return []
        try:
            pynvml.nvmlInit()
            return [cls(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)) for index in indices(pynvml)]
        except pynvml.NVMLError:
            return []

    @classmethod
    def of(cls, provider: Provider) -> Gpu | None:
        """The card a provider computes on; None where that is not one of NVIDIA's."""
        return cls.open(provider.device_id) if provider.processor == "nvidia" else None

    @property
    def name(self) -> str | None:
        """As the card is sold."""
        return _text(self._ask(lambda n: n.nvmlDeviceGetName(self._handle)))

    @property
    def driver(self) -> str | None:
        """Version of its driver."""
        return _text(self._ask(lambda n: n.nvmlSystemGetDriverVersion()))

    def facts(self) -> dict[str, Any]:
        """What does not change: name, driver, memory in bytes, power limit in watts."""
        memory = self._ask(lambda n: n.nvmlDeviceGetMemoryInfo(self._handle).total)
        limit = self._ask(lambda n: n.nvmlDeviceGetEnforcedPowerLimit(self._handle) / 1e3)
        return {
            "name": self.name, "driver": self.driver,
            "memory_bytes": memory, "power_limit_w": limit,
        }

    def state(self) -> dict[str, Any]:
        """As found now: clocks in MHz, watts, degrees Celsius, what holds the clocks back."""
        reasons = self._ask(lambda n: n.nvmlDeviceGetCurrentClocksEventReasons(self._handle))
        return {
            "sm_mhz": self._ask(lambda n: n.nvmlDeviceGetClockInfo(self._handle, n.NVML_CLOCK_SM)),
            "memory_mhz": self._ask(lambda n: n.nvmlDeviceGetClockInfo(self._handle, n.NVML_CLOCK_MEM)),
            "power_w": self._ask(lambda n: n.nvmlDeviceGetPowerUsage(self._handle) / 1e3),
            "temperature_c": self._ask(lambda n: n.nvmlDeviceGetTemperature(self._handle, n.NVML_TEMPERATURE_GPU)),
            "throttled_by": None if reasons is None else throttles(reasons),
        }

    def energy_j(self) -> float | None:
        """Joules since the driver was loaded, of the whole card, idle power with it."""
        found = self._ask(lambda n: n.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        return None if found is None else found / 1e3

    def process_bytes(self) -> int | None:
        """Memory that this process holds on the card."""
        held = self._ask(lambda n: n.nvmlDeviceGetComputeRunningProcesses(self._handle)) or []
        return next((entry.usedGpuMemory for entry in held if entry.pid == os.getpid()), None)

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        try:
            return question(self._library)
        except (self._library.NVMLError, AttributeError):
            return None


def throttles(reasons: int) -> list[str]:
    """Names of the bits that are set, but for idling; unknown ones by number."""
    bits = [1 << n for n in range(reasons.bit_length()) if reasons >> n & 1]
    return [THROTTLES.get(bit, hex(bit)) for bit in bits if bit != 0x1]


def _text(found: Any) -> str | None:
    return found.decode() if isinstance(found, bytes) else found
