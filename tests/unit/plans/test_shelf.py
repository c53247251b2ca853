"""Findings on disk: kept when a plan is cut short, gone when it is made, never taken from another plan or owner."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from foldrank.plans.resume import FolderShelf, open_shelf
from foldrank.plans.shelf import Finding, MemoryShelf

pytestmark = pytest.mark.usefixtures("cache")


def test_what_is_put_comes_back_bit_for_bit_and_by_rows(tmp_path: Path) -> None:
    shelf = FolderShelf(tmp_path).under("a stage")
    a = torch.randn(5, 3)[:, :2].T
    shelf.put("x", Finding({"a": a, "losses": torch.rand(4, dtype=torch.float64)}, {"n": 3, "f": 0.1}))
    held = FolderShelf(tmp_path).under("a stage").get("x")
    assert held is not None
    assert dict(held.values) == {"n": 3, "f": 0.1}
    assert sorted(held.tensors) == ["a", "losses"]
    assert held.tensors.get("b") is None
    assert torch.equal(held.tensors["a"], a)
    assert torch.equal(held.rows("a", 1), a[:1])
    assert FolderShelf(tmp_path).under("another").get("x") is None
    shelf.drop("x")
    assert shelf.get("x") is None
    assert not list(tmp_path.rglob("*.draft"))


def cut_short(cache: Path) -> Path:
    """The folder of a plan that failed after it had found `x`."""
    shelf = open_shelf("inputs")
    shelf.__enter__().put("x", Finding(values={"n": 1}))
    shelf.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    (folder,) = cache.iterdir()
    return folder


def test_folder_stays_when_a_plan_fails_and_goes_when_it_is_made(cache: Path) -> None:
    def plan(*, fails: bool) -> Finding | None:
        with open_shelf("inputs") as shelf:
            found = shelf.get("x")
            shelf.put("x", Finding(values={"n": 1}))
            if fails:
                raise RuntimeError("cut short")
            return found

    with pytest.raises(RuntimeError):
        plan(fails=True)
    with open_shelf("other inputs") as shelf:
        assert shelf.get("x") is None
    found = plan(fails=False)
    assert found is not None
    assert list(cache.iterdir()) == []


def test_a_plan_that_is_refused_leaves_nothing(cache: Path) -> None:
    shelf = open_shelf("inputs")
    shelf.__enter__().put("x", Finding(values={"n": 1}))
    assert shelf.__exit__(ValueError, ValueError("keep"), None) is not True
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("owner", [
    {"pid": 2**22 + 1, "boot_id": None}, {"pid": 1, "boot_id": "another boot"}, "", {"pid": "x"},
], ids=["dead", "rebooted", "empty", "nonsense"])
def test_a_lock_whose_owner_is_gone_is_taken_over(cache: Path, owner: Any) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    folder = cut_short(cache)
    if isinstance(owner, dict) and owner.get("boot_id", "") is None:
        owner["boot_id"] = boot
    (folder / "lock").write_text(json.dumps(owner) if owner else "")
    with open_shelf("inputs") as shelf:
        assert shelf.get("x") is not None
        assert json.loads((folder / "lock").read_text()) == {"pid": os.getpid(), "boot_id": boot}


def test_beside_a_living_owner_a_plan_works_in_a_folder_of_its_own(cache: Path) -> None:
    with open_shelf("inputs") as first:
        first.put("x", Finding(values={"n": 1}))
        with open_shelf("inputs") as second:
            assert second.get("x") is None
            second.put("x", Finding(values={"n": 2}))
        held = first.get("x")
        assert held is not None
        assert held.values["n"] == 1
    assert list(cache.iterdir()) == []


def test_what_was_left_a_month_ago_is_thrown_away(cache: Path) -> None:
    old, young = cache / "old", cache / "young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 40 * 24 * 3600,) * 2)
    with open_shelf("inputs"):
        assert not old.exists()
        assert young.exists()


def test_without_a_cache_findings_stay_in_memory(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDRANK_NO_CACHE", "1")
    with open_shelf("inputs") as shelf:
        assert isinstance(shelf, MemoryShelf)
    assert not cache.exists()
