"""A command line run in this process, as whoever called it would hear it."""

from __future__ import annotations

import contextlib
import io

from foldrank.cli import main as command_line


def spoken(words: list[str]) -> tuple[str, str, int]:
    """What the command says on either stream, and its exit code."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = command_line._run(words)
        except BaseException as odd:  # noqa: BLE001 - a library's panic is no Exception
            return out.getvalue(), f"error: {type(odd).__name__}: {odd}", 70
    return out.getvalue(), error.getvalue(), code
