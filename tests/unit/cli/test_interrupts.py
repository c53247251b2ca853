"""An interrupt stops the work, even where a library swallowed it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from foldrank.cli import interrupts
from foldrank.cli.progress import Bars, Lines, Nothing
from foldrank.progress import track


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    hook = sys.unraisablehook
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)
    sys.unraisablehook = hook
    interrupts._received = False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("progress", [Bars, Lines, Nothing])
def test_swallowed_interrupt_is_raised_at_the_next_step(progress: type[Bars | Lines], number: signal.Signals) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.listen()
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        work(progress(), number, done)
    assert done == [0, 1, 2]


def work(progress: Bars | Lines, number: signal.Signals, done: list[int]) -> None:
    """Five steps; the signal arrives in the third, where nobody minds."""
    with progress as shown:
        for item in track(range(5), "work", 5, shown):
            with contextlib.suppress(BaseException):
                if item == 2:
                    os.kill(os.getpid(), number)
            done.append(item)


def test_an_interrupt_that_was_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.listen()
    os.kill(os.getpid(), signal.SIGINT)
    interrupts.check()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


class Interrupted:
    """Meets an interrupt where Python drops exceptions."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_an_interrupt_that_python_drops_is_neither_lost_nor_printed(capsys: pytest.CaptureFixture[str]) -> None:
    interrupts.listen()
    Interrupted()
    with pytest.raises(KeyboardInterrupt):
        Lines().start("work", None)
    assert capsys.readouterr().err == ""
