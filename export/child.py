"""An exporter as a child process, so that its memory goes back: what it prints, why it failed; it ends when we do.

Knows processes. Knows nothing of what the child writes.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
from pathlib import Path

from foldrank.errors import ExportError, NotWritable
from foldrank.progress import SILENT, Progress

_RAISED = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit|Warning): .+")
_LOG_LINES = 400
_FULL = os.strerror(errno.ENOSPC)
_QUIET = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "ORT_DISABLE_TELEMETRY": "1",
    "TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:replace",
}


class ExporterFailed(NotWritable):
    """The exporter's reason in one line; `log` holds the end of what it printed, which a traceback shows as a note."""

    def __init__(self, where: object, what: str, remedy: str, log: str) -> None:
        super().__init__(where, what, remedy)
        self.log = log
        self.add_note(log)


def run_child(
    command: list[str], folder: Path, *, where: object, who: str, steps: int | None = None, step: str = "",
    progress: Progress = SILENT,
) -> None:
    """Run to the end in `folder`, offline. A printed line that starts with `step` is one of `steps`.

    An interrupt ends the child. Raises ExporterFailed naming `who` failed at `where`, or ExportError alone where the
    disk is full, which another exporter would not mend.
    """
    log: list[str] = []
    code = _run(command, folder, log, steps, step, progress)
    if code != 0:
        text = "\n".join(log)
        what = f"{who} failed: {_reason(log, code)}"
        if _FULL in text:  # no exporter finds more room than another
            full = ExportError(where, what, "make room or choose another -o")
            full.add_note(text)
            raise full
        raise ExporterFailed(where, what, "-v shows its whole log", text)


def _run(
    command: list[str], folder: Path, log: list[str], steps: int | None, step: str, progress: Progress
) -> int:
    """Exit code; `log` gets the last lines printed. In a session of its own: an interrupt is passed on by us."""
    child = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **_QUIET}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace", start_new_session=True,
    )
    progress.start("export", steps)
    try:
        for line in child.stdout or ():
            log.append(line.rstrip())
            del log[:-_LOG_LINES]
            if step and line.startswith(step):
                progress.advance("export")
        return child.wait()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        if child.stdout:
            child.stdout.close()
        progress.finish("export")


def _reason(log: list[str], code: int) -> str:
    """The last exception's line, else the last line, else the signal that ended it."""
    raised = [line for line in log if _RAISED.fullmatch(line)]
    if raised:
        return raised[-1][:400]
    if code < 0:
        return f"ended by {signal.Signals(-code).name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
    return next((line[:400] for line in reversed(log) if line.strip()), f"exit code {code}")
