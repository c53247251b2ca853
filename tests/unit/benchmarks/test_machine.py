"""What is said about the machine: plausible, and nothing that names it."""

from __future__ import annotations

import getpass
import json
import platform

import pytest

from foldrank.benchmarks import bandwidth
from foldrank.benchmarks.environment import environment, last_level_cache_bytes


def test_bandwidth_is_that_of_a_memory_not_of_a_disk_or_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "MIN_BYTES", 128 << 20)
    found = bandwidth.read_bandwidth(1, passes=2)
    assert 5e8 < found < 1e12


def test_the_array_outgrows_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    ones = bandwidth.np.ones
    monkeypatch.setattr(bandwidth, "MIN_BYTES", 1 << 20)
    monkeypatch.setattr(bandwidth.np, "ones", lambda n, dtype: sizes.append(n) or ones(n, dtype))
    bandwidth.read_bandwidth(2, cache_bytes=2 << 20, passes=1)
    assert sizes == [(8 << 20) // 8]


def test_environment_is_json_and_names_neither_host_nor_user() -> None:
    text = json.dumps(environment(2))
    assert platform.node() not in text
    assert f'"{getpass.getuser()}"' not in text
    assert environment(2)["threads"] == 2
    assert environment(2)["versions"]["onnxruntime"]


def test_cache_size_is_bytes_where_it_is_known() -> None:
    size = last_level_cache_bytes()
    assert size is None or 1 << 18 <= size <= 1 << 33
