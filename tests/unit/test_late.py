"""What was finished is kept beside the output when a later step fails; nothing is replaced; the error says where."""

import sys
from pathlib import Path

import pytest

from foldrank.errors import ProviderUnavailable, SourceError
from foldrank.installed import require
from foldrank.late import kept, notes
from foldrank.verbs.compress import _goes_on


def _made(tmp_path: Path) -> dict[str, Path]:
    folders = {name: tmp_path / "work" / name for name in ("unfinished", "dense")}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        (folder / "what").write_text(name)
    return folders


@pytest.mark.parametrize("error", [KeyError("n_positions"), KeyboardInterrupt(), ProviderUnavailable("x", "y")])
def test_finished_folders_outlive_an_error_and_an_interrupt(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, kept(_made(tmp_path), tmp_path / "out"):
        raise error
    assert (tmp_path / "out.unfinished" / "what").read_text() == "unfinished"
    assert (tmp_path / "out.dense" / "what").read_text() == "dense"
    (note,) = notes(caught.value)
    assert str(tmp_path / "out.unfinished") in note
    assert str(tmp_path / "out.dense") in note


def test_what_stands_there_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.dense").write_text("mine")
    with pytest.raises(KeyError), kept(_made(tmp_path), tmp_path / "out"):
        raise KeyError
    assert (tmp_path / "out.dense").read_text() == "mine"
    assert (tmp_path / "out.dense-2" / "what").read_text() == "dense"


def test_a_full_disk_is_one_line_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No space left") as caught, kept(_made(tmp_path), tmp_path / "out"):
        raise OSError(28, "No space left on device", "reports/bench.json")
    assert "out.unfinished" in notes(caught.value)[0]


def test_nothing_moves_where_nothing_fails(tmp_path: Path) -> None:
    folders = _made(tmp_path)
    with kept(folders, tmp_path / "out"):
        pass
    assert all(folder.is_dir() for folder in folders.values())


def test_notes_are_found_behind_the_error_that_was_raised_instead() -> None:
    cause = KeyboardInterrupt()
    cause.add_note("kept")
    outer = RuntimeError()
    outer.__cause__ = cause
    assert notes(outer) == ["kept"]


def test_every_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    require({"json": "cpu"})
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ProviderUnavailable, match=r"no_such_one, torch: .*foldrank\[cpu,torch\]"):
        require({"no_such_one": "cpu", "torch": "torch", "json": "cpu"})


@pytest.mark.parametrize(("passed", "verdict", "keep_going", "goes_on"), [
    (True, "pass", False, True),
    (True, "fail", False, False),
    (True, "fail", True, True),
    (False, "fail", True, False),
    (None, "pass", False, True),
])
def test_a_failed_gate_stops_before_the_bench_unless_asked_and_a_failed_proof_always(
    passed: bool | None, verdict: str, keep_going: bool, goes_on: bool
) -> None:
    assert _goes_on({"graph": {"passed": passed}, "verdict": verdict}, keep_going) is goes_on
