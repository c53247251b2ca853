"""Profiles: sums by hand over drawn-up events, and a real one whose nodes are those of the session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foldrank.runtime.decoding.profiling import STEPS, profiled, summary
from foldrank.runtime.providers.provider import Provider


def node(ts: int, dur: int, op: str, provider: str = "CPU", suffix: str = "kernel_time") -> dict[str, Any]:
    return {"cat": "Node", "name": f"{op}_{ts}_{suffix}", "ts": ts, "dur": dur,
            "args": {"op_name": op, "provider": provider}}


def test_only_the_last_runs_count_and_are_averaged() -> None:
    runs = [{"cat": "Session", "name": "model_run", "ts": ts, "dur": 90} for ts in (0, 100, 200)]
    nodes = [node(10, 50, "MatMul"), node(110, 10, "MatMul", "CUDA"), node(120, 4, "MemcpyToHost"),
             node(130, 3, "Cast"), node(210, 20, "MatMul", "CUDA"), node(220, 6, "MemcpyToHost"), node(230, 1, "Cast"),
             node(240, 500, "MatMul", "CUDA", "fence_before")]
    assert summary([*runs, *nodes], 2) == {
        "step_us": {"CUDA": 15.0, "CPU": 7.0}, "operator_us": {"MatMul": 15.0, "MemcpyToHost": 5.0, "Cast": 2.0},
        "memcpy": 1, "casts": 1,
    }


def test_a_real_profile_names_the_nodes_of_the_session(dense_5m: Path) -> None:
    found = profiled(dense_5m, Provider("cpu"), threads=1)
    assert found["steps"] == STEPS
    assert found["nodes"] == {"CPUExecutionProvider": sum(found["operators"].values())}
    assert found["operators"]["GroupQueryAttention"] == 12
    assert found["memcpy"] == 0
    assert set(found["step_us"]) == {"CPUExecutionProvider"}
    total = sum(found["operator_us"].values())
    assert found["step_us"]["CPUExecutionProvider"] == pytest.approx(total)
    assert next(iter(found["operator_us"])) in ("MatMul", "GroupQueryAttention")
