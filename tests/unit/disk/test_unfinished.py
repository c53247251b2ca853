"""What was finished is kept beside the output when a later step fails, and the same command goes on from it."""

import sys
from pathlib import Path

import pytest
from sample_reports import validation

from foldrank.disk.staging import check_output
from foldrank.disk.unfinished import Stages, notes, unfinished
from foldrank.errors import ProviderUnavailable, SourceError
from foldrank.installed import require
from foldrank.reports.validate import FORM
from foldrank.verbs.compress import _goes_on, _needed


class Maker:
    """A stage that writes what it is told, and counts how often."""

    def __init__(self) -> None:
        self.times: list[str] = []

    def __call__(self, stages: Stages, name: str, said: str = "", *, after: tuple[str, ...] = ()) -> str:
        file = stages.folder / name

        def make() -> None:
            self.times.append(name)
            file.write_text(name + said)

        return stages.once(name, [said], make, lambda: file.read_text() if file.is_file() else None, after=after)


def _breaks_down(output: Path, made: Maker, error: BaseException, *names: str, said: str = "") -> None:
    with unfinished(output) as stages:
        for name in names:
            made(stages, name, said if name == "apply" else "", after=("apply",) if name == "bench" else ())
        raise error


@pytest.mark.parametrize("error", [KeyError("n_positions"), KeyboardInterrupt(), ProviderUnavailable("x", "y")])
def test_what_is_done_outlives_an_error_and_is_not_done_again(tmp_path: Path, error: BaseException) -> None:
    made = Maker()
    with pytest.raises(type(error)) as caught:
        _breaks_down(tmp_path / "out", made, error, "export", "apply")
    (note,) = notes(caught.value)
    assert note == (f"what was finished (export, apply) is kept in {tmp_path / 'out.unfinished'}: "
                    "the same command goes on from there")
    with unfinished(tmp_path / "out") as stages:
        assert [made(stages, name) for name in ("export", "apply", "bench")] == ["export", "apply", "bench"]
    assert made.times == ["export", "apply", "bench"]
    assert list(tmp_path.iterdir()) == []


def test_other_settings_make_that_stage_and_what_follows_from_it_again(tmp_path: Path) -> None:
    made = Maker()
    for said in ("one", "two"):
        with pytest.raises(KeyError):
            _breaks_down(tmp_path / "out", made, KeyError(), "export", "apply", "bench", said=said)
    assert made.times == ["export", "apply", "bench", "apply", "bench"]
    (tmp_path / "out.unfinished" / "export").unlink()
    with unfinished(tmp_path / "out") as stages:
        assert made(stages, "export") == "export"
        assert made(stages, "bench", after=("apply",)) == "bench"
    assert made.times[5:] == ["export"]


def test_where_nothing_was_done_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        _breaks_down(tmp_path / "out", Maker(), SourceError("model", "cannot be exported"))
    assert notes(caught.value) == []
    assert list(tmp_path.iterdir()) == []


def test_what_stands_there_and_what_another_run_holds_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "out.unfinished"
    mine.mkdir()
    (mine / "thesis").write_text("mine")
    with unfinished(tmp_path / "out") as one, unfinished(tmp_path / "out") as two:
        assert (one.folder.name, two.folder.name) == ("out.unfinished-2", "out.unfinished-3")
    assert [path.name for path in tmp_path.iterdir()] == ["out.unfinished"]
    assert (mine / "thesis").read_text() == "mine"


@pytest.mark.parametrize("noted", ["", "{}", '[{"stage": "export"}]', "[" * 9])
def test_notes_that_say_nothing_make_everything_anew(tmp_path: Path, noted: str) -> None:
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "stages.json").write_text(noted)
    made = Maker()
    with unfinished(tmp_path / "out") as stages:
        made(stages, "export")
    assert made.times == ["export"]


def test_a_bundle_on_its_way_is_never_taken_for_a_stage(tmp_path: Path) -> None:
    """--force exchanges it with an older output: killed then, the older one would lie in the stage's place."""
    with unfinished(tmp_path / "out") as stages:
        for name in ("export", "apply"):
            Maker()(stages, name)
        with stages.leaving("apply"):
            seen = (stages.folder / "stages.json").read_text()
        assert ('"apply"' in seen, '"export"' in seen) == (False, True)
        Maker()(stages, "apply")
        with pytest.raises(SourceError, match="exists already"), stages.leaving("apply"):
            check_output(tmp_path)
        assert '"apply"' in (stages.folder / "stages.json").read_text()


def test_a_full_disk_is_one_line_with_the_place(tmp_path: Path) -> None:
    full = OSError(28, "No space left on device", "reports/bench.json")
    with pytest.raises(SourceError, match="No space left") as caught:
        _breaks_down(tmp_path / "out", Maker(), full, "export")
    assert "out.unfinished" in notes(caught.value)[0]


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


@pytest.mark.parametrize(("exporter", "needs"), [("auto", True), ("genai", True), ("transformers", False)])
def test_the_builder_is_asked_for_where_the_exporter_is_it(exporter: str, needs: bool) -> None:
    assert ("onnxruntime_genai" in _needed(exporter)) is needs


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
    told = validation()
    told["graph"]["passed"], told["verdict"] = passed, verdict
    assert _goes_on(FORM.parse(told), keep_going) is goes_on
