"""Huge pages: asked for, they hold the weights; and the program that times them runs the whole way. Not its speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from foldrank.benchmarks.huge_pages import compared
from foldrank.benchmarks.paired import Setup
from foldrank.benchmarks.schedule import ONE
from foldrank.benchmarks.workload import Workload
from foldrank.bundle.bundle import Bundle
from foldrank.runtime.providers.provider import resolve

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def test_weights_lie_in_huge_pages_where_they_were_asked_for(dense_5m: Path) -> None:
    setup = Setup(resolve("cpu"), 1, 4096, 0, turns=ONE)
    row = compared(Bundle.open(dense_5m), "onnxruntime", Workload(8, 1, 4), setup, pairs=2, launches=2)
    assert [len(launch) for launch in row["pair_ratios"]] == [2, 2]
    assert row["ci95"][0] <= row["ratio"] <= row["ci95"][1]
    if not SWITCH.is_file() or "[madvise]" not in SWITCH.read_text():
        pytest.skip("this machine's huge pages are not given on request")
    small, huge = row["huge_page_bytes"]["small"], row["huge_page_bytes"]["huge"]
    assert small < 2**22  # numpy asks for its own
    assert huge > small + 2**23
