"""Sweeps and plans on a local Ray cluster of two nodes, a worker killed in the middle: what comes is what this machine
makes."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from foldrank.errors import SourceError
from foldrank.recipe import Recipe
from foldrank.verbs import plan as planning
from foldrank.verbs.sweep import sweep
from foldrank.verbs.sweeping.candidate import RESULT
from foldrank.verbs.sweeping.local import LOG

os.environ.setdefault("RAY_raylet_start_wait_time_s", "600")  # read where ray is imported; a busy machine is slow
cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs ray: make consumers")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
RECIPE = Recipe(methods=("dipsvd:align=1,ratios=uniform",), calibration_tokens=256)
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="module")
def dense(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from foldrank.verbs.export import export

    source = tiny_models / "llama"
    return export(source / "checkpoint", tmp_path_factory.mktemp("dense") / "dense", exporter="optimum",
                  graph=source / "optimum").path


def killed(candidates: Path) -> list[int]:
    """The process that first had a plan, killed before it had a result; waits for one."""
    end = time.monotonic() + 3000
    while time.monotonic() < end:
        for plan in candidates.glob("*/plan"):
            if not (plan.parent / RESULT).exists():
                pid = int(re.findall(r"process (\d+) on", (plan.parent / LOG).read_text())[-1])
                os.kill(pid, signal.SIGKILL)
                return [pid]
        time.sleep(0.01)
    return []


def test_results_are_those_of_local_processes_though_a_worker_dies(
    address: str, dense: Path, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    asked: dict[str, Any] = {"grid": ["keep=0.7,0.5"], "dense": dense, "tokens": 256, "proof": False, "offline": True}
    model = tiny_models / "llama" / "checkpoint"
    pids: list[int] = []
    killer = threading.Thread(target=lambda: pids.extend(killed(tmp_path / "ray" / "candidates")))
    killer.start()
    there = sweep(RECIPE, model, tmp_path / "ray", ray=address, **asked)
    killer.join()
    here = sweep(RECIPE, model, tmp_path / "local", **asked)
    assert there["failed"] == here["failed"] == {}
    assert len(pids) == 1
    logs = [path.read_text() for path in (tmp_path / "ray").rglob(LOG)]
    tries = sorted(re.findall(r"process (\d+) on", log) for log in logs)
    assert sorted(map(len, tries)) == [1, 2]
    assert any(len(pair) == 2 and pair[0] == str(pids[0]) for pair in tries)
    assert told(there) == told(here)
    assert written(tmp_path / "ray") == written(tmp_path / "local")
    assert sweep(RECIPE, model, tmp_path / "ray", ray=address, **asked)["done_before"] == 2


def worker_killed() -> list[int]:
    """The first worker of a plan that computes, killed; waits for one."""
    end = time.monotonic() + 3000
    while time.monotonic() < end:
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if b"ray::Worker.through" in (place / "cmdline").read_bytes():
                    os.kill(int(place.name), signal.SIGKILL)
                    return [int(place.name)]
            except OSError:
                continue
        time.sleep(0.001)
    return []


def test_a_plan_in_parts_is_that_of_this_process_though_a_worker_dies(
    address: str, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOLDRANK_NO_CACHE", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        asked: dict[str, Any] = {"methods": ["dipsvd:keep=0.7,align=1"], "shards": 2, "calibration_tokens": 8192}
        model, pids = tiny_models / "llama" / "checkpoint", list[int]()
        killer = threading.Thread(target=lambda: pids.extend(worker_killed()))
        killer.start()
        planning.plan(model, tmp_path / "ray", ray=address, **asked)
        killer.join()
        planning.plan(model, tmp_path / "here", **asked)
    finally:
        torch.set_num_threads(threads)
    assert len(pids) == 1
    for name in ("plan.json", "factors.safetensors"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "here" / name).read_bytes(), name


def told(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in one.items() if key != "seconds"} for one in found["candidates"]]


def written(folder: Path) -> dict[str, bytes]:
    """Plans, and bundles but for what tells of a machine and of times."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for place in ("plan", "bundle") for path in folder.glob(f"candidates/*/{place}/**/*")
            if path.is_file() and path.name != "manifest.json" and path.parent.name != "reports"}


def test_a_cluster_that_is_not_there_is_an_error(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no Ray cluster answers"):
        sweep(RECIPE, "model", tmp_path / "out", grid=["keep=0.7"], dense=dense, ray="127.0.0.1:1")
