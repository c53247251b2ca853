"""A new graph over the old data. Not every file system clones, so most tests put a copy in the place of a clone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from synthetic import PlanMaker, Shape, random_decoder, run_onnx, worst, write_bundle

from foldrank.bundle.bundle import Bundle
from foldrank.cli.main import main
from foldrank.digests import sha256_file
from foldrank.errors import PassRefused, SourceError
from foldrank.passes.link import share_blocks
from foldrank.verbs.apply import apply

DECODER = random_decoder(Shape(), seed=2)
IDS = np.arange(12)
DATA = "model.onnx.data"


@pytest.fixture
def dense(tmp_path: Path) -> Bundle:
    return write_bundle(DECODER, tmp_path / "dense")


@pytest.fixture
def cloning(monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(source: int, target: int) -> None:
        os.write(target, os.read(source, 1 << 26))

    monkeypatch.setattr("foldrank.passes.link.share_blocks", copy)


def top(dense: Bundle, norms: str = "top") -> PlanMaker:
    return PlanMaker(DECODER, dense.manifest.source["config_sha256"]).fold((1, 2), {1: 0.0, 2: 1.0}, norms=norms)


def folders(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.usefixtures("cloning")
@pytest.mark.parametrize("norms", ["top", "bottom"])
def test_linked_bundle_is_whole_and_computes_what_the_plan_says(dense: Bundle, tmp_path: Path, norms: str) -> None:
    made = top(dense, norms)
    small = apply(dense, made.plan(), tmp_path / "small", link_data=True)
    assert Bundle.open(small.path) == small
    assert small.manifest.command == "apply --link-data"
    assert small.manifest.files[DATA] == dense.manifest.files[DATA]
    assert worst(run_onnx(small.model, IDS), made.expected().logits(IDS)) < 1e-5


@pytest.mark.usefixtures("cloning")
def test_linked_file_has_one_name_and_no_link(dense: Bundle, tmp_path: Path) -> None:
    small = apply(dense, top(dense).plan(), tmp_path / "small", link_data=True)
    for bundle in (dense, small):
        status = os.lstat(bundle.path / DATA)
        assert stat.S_ISREG(status.st_mode)
        assert status.st_nlink == 1
    (small.path / DATA).write_bytes(b"")
    assert sha256_file(dense.path / DATA) == dense.manifest.files[DATA].sha256


@pytest.mark.usefixtures("cloning")
def test_a_plan_that_changes_weights_is_refused_by_name(dense: Bundle, tmp_path: Path) -> None:
    maker = PlanMaker(DECODER, dense.manifest.source["config_sha256"])
    mean = maker.fold((1, 2), {1: 0.5, 2: 0.5}).plan()
    with pytest.raises(PassRefused, match=r"model\.layers\.1\..*leave out --link-data"):
        apply(dense, mean, tmp_path / "small", link_data=True)
    with pytest.raises(PassRefused, match=r"down.*A"):
        apply(dense, top(dense).low_rank("block.03.down", 4).plan(), tmp_path / "small", link_data=True)
    assert folders(tmp_path) == ["dense"]


def test_here_it_is_cloned_or_refused_and_nothing_in_between(dense: Bundle, tmp_path: Path) -> None:
    with (tmp_path / "old").open("w+b") as old, (tmp_path / "new").open("w+b") as new:
        old.write(b"x" * 8192)
        old.flush()
        try:
            share_blocks(old.fileno(), new.fileno())
            clones = True
        except OSError:
            clones = False
    if clones:
        small = apply(dense, top(dense).plan(), tmp_path / "small", link_data=True)
        assert sha256_file(small.path / DATA) == dense.manifest.files[DATA].sha256
    else:
        with pytest.raises(SourceError, match=r"cannot share blocks.*leave out --link-data"):
            apply(dense, top(dense).plan(), tmp_path / "small", link_data=True)
        assert folders(tmp_path) == ["dense", "new", "old"]


def test_a_full_disk_is_not_taken_for_one_that_cannot_clone(
    dense: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: int, target: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("foldrank.passes.link.share_blocks", full)
    with pytest.raises(SourceError, match="No space left"):
        apply(dense, top(dense).plan(), tmp_path / "small", link_data=True)


@pytest.mark.usefixtures("cloning")
def test_command_line(dense: Bundle, tmp_path: Path) -> None:
    (tmp_path / "plan").mkdir()
    top(dense).plan().write(tmp_path / "plan")
    arguments = ["apply", str(dense.path), str(tmp_path / "plan"), "-o", str(tmp_path / "small"), "--link-data"]
    with pytest.raises(SystemExit, match=r"^0$"):
        main(arguments)
    assert Bundle.open(tmp_path / "small").manifest.command == "apply --link-data"
