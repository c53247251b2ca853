"""What a card and a processor tell of themselves: over stand-ins for NVML and RAPL, since neither is at hand."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foldrank.benchmarks.bandwidth import device_bandwidth
from foldrank.benchmarks.energy import energy_counter
from foldrank.reports.form import plain
from foldrank.reports.machine import Environment
from foldrank.runtime.providers.gpu import Gpu, throttles
from foldrank.runtime.providers.provider import Provider


class NVMLError(Exception):
    pass


def refuse(*_: Any) -> Any:
    raise NVMLError("not supported")


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    library = SimpleNamespace(
        NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0, nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index, nvmlDeviceGetName=lambda _: b"Card",
        nvmlSystemGetDriverVersion=lambda: "580", nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=8 << 30),
        nvmlDeviceGetEnforcedPowerLimit=lambda _: 300_000, nvmlDeviceGetCurrentClocksEventReasons=lambda _: 0x5,
        nvmlDeviceGetClockInfo=lambda _, kind: 1000 * kind, nvmlDeviceGetPowerUsage=refuse,
        nvmlDeviceGetTemperature=lambda _h, _k: 40, nvmlDeviceGetTotalEnergyConsumption=lambda _: 2500,
        nvmlDeviceGetComputeRunningProcesses=lambda _: [SimpleNamespace(pid=1, usedGpuMemory=7)],
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


def test_a_card_says_what_it_can_and_none_for_the_rest(nvml: SimpleNamespace) -> None:
    card = Gpu.open()
    assert card is not None
    assert card.facts() == {"name": "Card", "driver": "580", "memory_bytes": 8 << 30, "power_limit_w": 300.0}
    assert card.state() == {"sm_mhz": 1000, "memory_mhz": 2000, "power_w": None, "temperature_c": 40,
                            "throttled_by": ["software power cap"]}
    told = Environment(threads=1, versions={}, gpu=card.facts(), gpu_states=[card.state(), None])
    assert plain(told)["gpu"] == card.facts()
    assert card.energy_j() == 2.5
    assert card.process_bytes() is None  # another process's memory is not ours
    assert energy_counter(Provider("cuda"))[0]() == 2.5


def test_no_library_no_driver_or_no_card_is_none(nvml: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "nvmlDeviceGetHandleByIndex", refuse)
    assert Gpu.open() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Gpu.open() is None
    counter, how = energy_counter(Provider("cuda"))
    assert (counter(), how) == (None, "no NVML")


def test_throttles_are_named_but_for_idling() -> None:
    assert throttles(0) == throttles(1) == []
    assert throttles(0x48) == ["hardware slowdown", "hardware thermal"]
    assert throttles(0x1000) == ["0x1000"]


def test_packages_are_summed_and_their_parts_are_not(tmp_path: Path) -> None:
    for name, value in (("intel-rapl:0", 1_000_000), ("intel-rapl:1", 500_000), ("intel-rapl:0:0", 9_000_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
    counter, how = energy_counter(Provider("cpu"), tmp_path)
    assert counter() == 1.5
    assert how == "RAPL, all packages"
    counter, how = energy_counter(Provider("cpu"), tmp_path / "none")
    assert (counter(), how) == (None, "RAPL cannot be read")


def test_bandwidth_through_the_runtime_is_that_of_memory_or_cache() -> None:
    assert 1e8 < device_bandwidth(Provider("cpu"), size=1 << 22, passes=2) < 1e13
