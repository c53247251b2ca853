"""What a log is told of long work, by a clock that the test moves."""

from __future__ import annotations

import threading
import time

import pytest

from foldrank.cli import progress
from foldrank.cli.progress import Lines, Nothing
from foldrank.progress import SILENT, Timed, track


class Clock:
    """Stands still until it is moved; every second the lines may be told, as their own thread would."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def pass_by(self, seconds: int, shown: Lines) -> None:
        for _ in range(seconds):
            self.now_s += 1.0
            shown.tell()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_what_took_long_is_told_at_its_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Lines(clock)
    for stage, took_s in (("short", 1), ("long", 3)):
        shown.start(stage, 2)
        shown.advance(stage)
        clock.pass_by(took_s, shown)
        shown.finish(stage)
    assert said(capsys) == ["long: 3.0 s"]


def test_a_long_stage_is_told_of_once_a_minute_with_what_is_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Lines(clock)
    shown.start("width", 10)
    for _ in range(9):
        clock.pass_by(20, shown)
        shown.advance("width")
    assert said(capsys) == [
        "width: 2 of 10 after 60 s, about 2.3 min left",
        "width: 5 of 10 after 2.0 min, about 80 s left",
        "width: 8 of 10 after 3.0 min, about 20 s left",
    ]


def test_the_first_step_warms_up_and_is_not_the_pace(clock: Clock) -> None:
    shown = Lines(clock)
    shown.start("width", 5)
    clock.pass_by(50, shown)
    shown.advance("width")
    assert shown._stages["width"].left_s(clock()) == 200
    for _ in range(2):
        clock.pass_by(10, shown)
        shown.advance("width")
    clock.pass_by(4, shown)
    assert shown._stages["width"].left_s(clock()) == 2 * 10 - 4


def test_steps_of_an_earlier_run_count_as_done_and_not_as_pace(clock: Clock) -> None:
    shown = Lines(clock)
    shown.start("width", 30, 20)
    clock.pass_by(10, shown)
    shown.advance("width")
    assert shown._stages["width"].told(clock()) == "21 of 30 after 10 s, about 90 s left"


def test_a_step_that_takes_minutes_and_a_stage_without_a_total_are_told_of(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Lines(clock)
    shown.start("finercut", None)
    shown.start("export proof", 1)
    clock.pass_by(125, shown)
    shown.finish("export proof")
    shown.advance("finercut", 7)
    clock.pass_by(60, shown)
    assert said(capsys) == [
        "finercut: 60 s so far; export proof: 0 of 1 after 60 s",
        "finercut: 2.0 min so far; export proof: 0 of 1 after 2.0 min",
        "export proof: 125.0 s",
        "finercut: 7 steps after 3.0 min",
    ]


def test_short_stages_in_a_row_are_told_of_by_none_but_the_last_word(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Lines(clock)
    for _ in range(3):
        shown.start("block", 1)
        clock.pass_by(59, shown)
        shown.finish("block")
    assert said(capsys) == ["block: 59.0 s"] * 3


def test_a_log_hears_of_work_that_reports_no_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.02)
    monkeypatch.setattr(progress, "_LOOK_S", 0.01)
    with Lines() as shown:
        shown.start("export proof", 1)
        heard, until = "", time.monotonic() + 10
        while "0 of 1" not in heard and time.monotonic() < until:
            time.sleep(0.01)
            heard += capsys.readouterr().err
    assert heard.startswith("export proof: 0 of 1 after 0 s\n")
    assert not [thread for thread in threading.enumerate() if thread.name == "foldrank progress"]


def test_quiet_is_quiet(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Nothing(clock)
    shown.start("width", 10)
    clock.pass_by(90, shown)
    shown.finish("width")
    assert said(capsys) == []


def test_the_seconds_of_every_stage_are_kept_and_passed_on(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    timed = Timed(Lines(clock), clock)
    for took_s in (3, 4):
        timed.start("proof", None)
        clock.now_s += took_s
        timed.finish("proof")
    timed.start("never ends", 1)
    assert timed.seconds == {"proof": 7.0}
    assert said(capsys) == ["proof: 3.0 s", "proof: 4.0 s"]


def test_without_anything_that_shows_it_the_log_has_each_stage(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="foldrank")
    assert list(track("ab", "export", 2, SILENT)) == ["a", "b"]
    assert [(r.name, r.levelname, r.message) for r in caplog.records] == [
        ("foldrank", "INFO", "export begins"), ("foldrank", "INFO", "export ended")]
