"""The fuzzer's own facts, and a few of its inputs in every run; for hours it is a command (fuzz.py)."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import mutating
import pytest
from mutating import Draw

from foldrank.cli import main as command_line
from tests.attacks import fuzz


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fuzz") / "room"
    fuzz.make_room(made)
    return made


def test_a_few_inputs_find_nothing(room: Path) -> None:
    log = fuzz.run(room, 600, 7, most=4 * len(fuzz.TARGETS))
    assert log.findings == []
    assert log.inputs == 4 * len(fuzz.TARGETS)


def _sleep(_: list[str]) -> int:
    time.sleep(60)
    return 0


@pytest.mark.parametrize(("fault", "what"), [
    (lambda words: 70, "exit code 70"), (lambda words: 4, "exit code 4 and 0 lines"), (_sleep, "took more than 1 s"),
    (lambda words: os.kill(os.getpid(), signal.SIGSEGV), "crashed: -11"),
])
def test_what_must_not_be_is_found_and_the_next_input_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[list[str]], int], what: str
) -> None:
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "config.json").write_text('{"a": [1, 2]}')
    monkeypatch.setattr(command_line, "_run", fault)
    monkeypatch.setattr(fuzz, "WAIT_S", 1.0)
    log = fuzz.run(tmp_path, 600, 0, ["config"], most=2)
    assert [one.what[: len(what)] for one in log.findings] == [what] * 2
    assert json.loads(log.text())["findings"][0]["times"] == 2


def test_mutations_are_drawn_from_bytes_alone_and_change_what_they_are_given(room: Path) -> None:
    for target in fuzz.TARGETS.values():
        data = (room / target.file).read_bytes()
        made = [target.change(data, Draw(bytes([n, n, n, 1]) * 24)) for n in range(12)]
        assert made == [target.change(data, Draw(bytes([n, n, n, 1]) * 24)) for n in range(12)]
        assert sum(one != data for one in made) > 6
    assert mutating.Draw(b"").below(9) == 0
