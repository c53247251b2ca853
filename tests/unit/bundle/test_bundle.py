"""Bundles and staged folders: whole or not at all, and a changed byte shows."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from foldrank.bundle.bundle import Bundle, seal
from foldrank.disk.staging import staged_folder
from foldrank.errors import BundleError, SourceError


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    target = tmp_path / "bundle"
    with staged_folder(target) as stage:
        (stage / "model.onnx").write_bytes(b"graph")
        (stage / "plan").mkdir()
        (stage / "plan" / "plan.json").write_text("{}")
        seal(stage, command="test", seed=0, source={}, exporter="genai", dtype="fp32", versions={})
    return Bundle.open(target)


def test_a_sealed_bundle_opens_and_lists_every_file(bundle: Bundle) -> None:
    assert set(bundle.manifest.files) == {"model.onnx", "plan/plan.json"}
    assert bundle.plan == bundle.path / "plan"


def test_a_report_can_be_added_and_replaced(bundle: Bundle) -> None:
    bundle.with_files({"reports/a.json": b"{}"}).with_files({"reports/a.json": b'{"b": 1}'})
    assert Bundle.open(bundle.path).json("reports/a.json") == {"b": 1}


def test_reports_added_through_one_object_after_another_are_all_in_the_manifest(bundle: Bundle) -> None:
    bundle.with_files({"reports/a.json": b"{}"})
    bundle.with_files({"reports/b.json": b"{}"})  # as validate and then bench of the object that apply gave
    assert {"reports/a.json", "reports/b.json"} <= set(Bundle.open(bundle.path).manifest.files)


@pytest.mark.parametrize(("damage", "says"), [
    (lambda f: (f / "model.onnx").write_bytes(b"graph!"), "6 bytes"),
    (lambda f: (f / "model.onnx").write_bytes(b"grapH"), "another sha256"),
    (lambda f: (f / "model.onnx").unlink(), "missing"),
    (lambda f: (f / "extra").write_text("x"), "not in the manifest"),
    (lambda f: ((f / "model.onnx").unlink(), (f / "model.onnx").symlink_to("/etc/hostname")), "not a plain file"),
    (lambda f: (f / "manifest.json").unlink(), "no manifest"),
    (lambda f: (f / "manifest.json").write_text('{"schema": "foldrank.bundle/1"}'), "manifest"),
    (lambda f: (f / "manifest.json").write_text("{"), "JSON"),
])
def test_a_damaged_bundle_is_refused(bundle: Bundle, damage: object, says: str) -> None:
    damage(bundle.path)  # type: ignore[operator]
    with pytest.raises(BundleError, match=says):
        Bundle.open(bundle.path)


def test_a_folder_that_is_not_there_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        Bundle.open(tmp_path / "nothing")


def test_an_interrupted_stage_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with staged_folder(tmp_path / "out") as stage:
            (stage / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_plain_error_and_leaves_nothing(tmp_path: Path) -> None:
    def filled() -> None:
        with staged_folder(tmp_path / "out"):
            raise OSError(28, os.strerror(28), str(tmp_path / "out"))

    with pytest.raises(SourceError, match="No space left on device"):
        filled()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_without_force_and_replaced_whole_with_it(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(SourceError, match="exists already"), staged_folder(target):
        pass
    assert (target / "old").read_text() == "old"
    with staged_folder(target, force=True) as stage:
        (stage / "new").write_text("new")
    assert [p.name for p in target.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_run_left_is_swept_by_the_next_and_a_living_one_is_not(tmp_path: Path) -> None:
    program = ("import os, signal, sys, time\nfrom foldrank.disk.staging import staged_folder\n"
               "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it\n"
               "with staged_folder(sys.argv[1]) as stage:\n    print(stage, flush=True)\n    time.sleep(60)")
    runs = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
            for _ in range(2)]
    killed, living = (Path(run.stdout.readline().strip()) for run in runs if run.stdout)
    runs[0].kill()
    runs[0].wait()
    for stage in (killed, living):
        os.utime(stage, (0, 0))
    with staged_folder(tmp_path / "out") as stage:
        (stage / "new").write_text("new")
    assert not killed.exists()
    assert living.is_dir()
    runs[1].send_signal(signal.SIGINT)
    runs[1].wait()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
