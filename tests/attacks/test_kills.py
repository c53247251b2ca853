"""A process that dies at any call that changes the file system leaves the old or the new, whole."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from every_verb import Verb, attack, twice
from every_verb_known import verbs
from nightly import NIGHTLY
from synthetic import PlanMaker, Shape, random_decoder, write_bundle

from foldrank.bundle.bundle import Bundle, seal
from foldrank.disk import renaming, staging
from foldrank.disk.staging import staged_folder
from foldrank.errors import SourceError

_CALLS = ("rename", "replace", "unlink", "mkdir", "rmdir", "open", "fsync")


def _dies_at(n: int, work: Callable[[], object]) -> bool:
    """Run `work` in a forked child that is gone before its n-th call that changes files. Whether it got so far."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: object, **more: object) -> object:
                nonlocal count
                count += 1
                if count == n:
                    os._exit(9)
                return real(*args, **more)

            return call

        for name in _CALLS:
            setattr(os, name, counted(getattr(os, name)))
        renaming._renameat2 = counted(renaming._renameat2)
        code = 8
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def _sealed(folder: Path, text: bytes) -> None:
    (folder / "model.onnx").write_bytes(text)
    seal(folder, command="test", seed=0, source={}, exporter="genai", dtype="fp32", versions={})


def _write(target: Path, text: bytes, *, force: bool = False) -> None:
    with staged_folder(target, force=force) as stage:
        _sealed(stage, text)


@pytest.fixture(params=["renameat2", "plain renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_NEWBORN_S", -1.0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    if request.param != "renameat2":
        monkeypatch.setattr(renaming, "_renameat2", lambda *args: False)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("force", [False, True])
def test_a_kill_while_an_output_is_made_leaves_old_or_new_and_the_next_run_cleans(tmp_path: Path, force: bool) -> None:
    for n in range(1, 200):
        target = tmp_path / str(n) / "out"
        target.parent.mkdir()
        if force:
            _write(target, b"old")
        died = _dies_at(n, lambda target=target: _write(target, b"new", force=force))
        with staging.workspace(target):  # what the next run does first
            pass
        if target.exists() or force:
            assert Bundle.open(target).model.read_bytes() in ((b"old", b"new") if died else (b"new",))
        _write(target, b"next", force=target.exists())
        assert [path.name for path in target.parent.iterdir()] == ["out"]
        assert Bundle.open(target).model.read_bytes() == b"next"
        if not died:
            break
    assert not died
    assert n > 5


def test_a_kill_while_reports_are_written_leaves_all_of_the_old_or_all_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    _write(tmp_path / "first", b"graph")
    Bundle.open(tmp_path / "first").with_files({"reports/a.json": b'"old"', "README.md": b"old"})
    for n in range(1, 200):
        folder = tmp_path / f"copy{n}"
        shutil.copytree(tmp_path / "first", folder)
        new = {"reports/a.json": b'"new"', "README.md": b"new", "deep/er/b.json": b"1"}
        died = _dies_at(n, lambda folder=folder, new=new: Bundle.open(folder).with_files(new))
        read_only = pytest.MonkeyPatch()
        with read_only.context() as patch:  # stands for a read-only mount, which root could not be refused otherwise
            patch.setattr("foldrank.disk.journal.finish", _refuse)
            seen = Bundle.open(folder)
            assert (seen.json("reports/a.json"), seen.json("deep/er/b.json")) in (("old", None), ("new", 1))
        now = Bundle.open(folder)
        assert now.json("reports/a.json") == seen.json("reports/a.json")
        assert (folder / "README.md").read_text() == now.json("reports/a.json")
        now.with_files({"reports/c.json": b"2"})
        assert not {".next", ".writing"} & {path.name for path in folder.iterdir()}
        assert Bundle.open(folder).json("reports/c.json") == 2
        if not died:
            break
    assert not died
    assert n > 8


def _refuse(folder: Path) -> None:
    raise OSError(30, os.strerror(30), str(folder))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_appears_in_the_place_during_a_run_stays(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"

    def run() -> None:
        with staged_folder(target) as stage:
            _sealed(stage, b"ours")
            match kind:
                case "file":
                    target.write_text("mine")
                case "folder":
                    _write(target, b"mine")
                case "link":
                    target.symlink_to("/nowhere")

    with pytest.raises(SourceError, match="appeared while this ran"):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    if kind == "folder":
        assert Bundle.open(target).model.read_bytes() == b"mine"
    else:
        assert target.is_symlink() if kind == "link" else target.read_text() == "mine"


@pytest.mark.usefixtures("way")
def test_a_file_that_appears_is_kept_with_force_too(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def run() -> None:
        with staged_folder(target, force=True) as stage:
            _sealed(stage, b"ours")
            target.write_text("mine")

    with pytest.raises(SourceError, match="not a folder"):
        run()
    assert target.read_text() == "mine"


@pytest.mark.parametrize("number", [28, 30])
def test_no_room_or_a_read_only_disk_is_a_source_error_and_the_bundle_is_unharmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    _write(tmp_path / "b", b"graph")
    opened = Bundle.open(tmp_path / "b")

    def full(folder: Path) -> None:
        raise OSError(number, os.strerror(number), str(folder))

    monkeypatch.setattr("foldrank.disk.journal.sync_tree", full)
    with pytest.raises(SourceError, match="cannot be written") as refused:
        opened.with_files({"reports/a.json": b"1"})
    assert refused.value.exit_code == 3
    monkeypatch.undo()
    assert Bundle.open(tmp_path / "b").json("reports/a.json") is None
    assert not (tmp_path / "b" / ".writing").exists()


def test_reports_of_processes_at_once_all_survive(tmp_path: Path) -> None:
    _write(tmp_path / "b", b"graph")
    children = []
    for i in range(6):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                for k in range(3):
                    Bundle.open(tmp_path / "b").with_files({f"reports/{i}.{k}.json": b"1"})
                os._exit(0)
            finally:
                os._exit(1)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
    assert sum(name.startswith("reports/") for name in Bundle.open(tmp_path / "b").manifest.files) == 18


def test_a_journal_behind_a_link_writes_nothing_outside(tmp_path: Path) -> None:
    _write(tmp_path / "b", b"graph")
    (tmp_path / "outside").mkdir()
    (tmp_path / "b" / "reports").symlink_to(tmp_path / "outside")
    (tmp_path / "b" / ".next" / "reports").mkdir(parents=True)
    (tmp_path / "b" / ".next" / "reports" / "a.json").write_text("1")
    with pytest.raises(Exception, match="not in the manifest"):
        Bundle.open(tmp_path / "b")
    assert not list((tmp_path / "outside").iterdir())


STRACE = pytest.mark.skipif(shutil.which("strace") is None, reason="strace counts the calls and strikes")


@STRACE
@pytest.mark.parametrize("mode", ["kill", "full"])
def test_a_verb_struck_at_calls_of_any_library_leaves_old_or_new(mode: str, tmp_path: Path) -> None:
    """A folder of several files and one file, each at a few of its calls; all verbs at night."""
    decoder = random_decoder(Shape(blocks=3), seed=5)
    dense, planned = write_bundle(decoder, tmp_path / "dense"), tmp_path / "plan"
    planned.mkdir()
    maker = PlanMaker(decoder, dense.manifest.source["config_sha256"]).fold((0, 1), {0: 0.0, 1: 1.0})
    maker.low_rank("block.02.down", 9).plan().write(planned)
    folder = Verb(lambda place: ["apply", str(dense.path), str(planned), "-o", str(place / "out"), "-q"], Bundle.open)
    file = Verb(lambda place: ["sbom", str(dense.path), "-o", str(place / "out")], Path.read_bytes)
    assert attack(mode, "apply", folder, tmp_path / "a" / "place", force=True, every=30, first=3) > 1
    assert attack(mode, "sbom", file, tmp_path / "b" / "place", force=True, every=2) > 1


@NIGHTLY
@STRACE
@pytest.mark.parametrize("mode", ["kill", "full"])
def test_every_verb_that_writes_struck_leaves_old_or_new(mode: str, tmp_path: Path) -> None:
    with verbs() as known:
        for name, verb in known.items():
            for force in (True,) if verb.inside is not None or not verb.forced else (False, True):
                place = tmp_path / name / str(force) / "place"
                assert attack(mode, name, verb, place, force=force, every=25 if name in SLOW else 5) > 0


SLOW = ("compress", "export", "validate", "cost-table")


@NIGHTLY
def test_two_runs_on_one_output_at_once_leave_one_whole(tmp_path: Path) -> None:
    with verbs() as known:
        for name, verb in known.items():
            for lag_s in (0.0, 0.05, 0.5):
                twice(name, verb, tmp_path / name / str(lag_s) / "place", force=verb.forced, lag_s=lag_s)
