"""Ctrl-C and SIGTERM as KeyboardInterrupt, that no library can lose.

Python drops it where it is raised in a `__del__` (regex has some, run while transformers is imported), a bare `except`
of a library does the same, and the work would go on to its end: so it is raised once more at the next step that the
work reports.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

_received = False


def listen() -> None:
    """Take both signals from now on. An interrupt that we were started to ignore, as a background job is, stays so."""
    global _received
    _received = False
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _unraisable


def check() -> None:
    """Raise KeyboardInterrupt where one was received. Not for clean-up code, which runs after it."""
    if _received:
        raise KeyboardInterrupt


def _interrupt(_signal: int, _frame: FrameType | None) -> Any:
    global _received
    _received = True
    raise KeyboardInterrupt


def _unraisable(dropped: sys.UnraisableHookArgs) -> None:
    """Python would print a traceback of the interrupt that it dropped."""
    if dropped.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(dropped)
