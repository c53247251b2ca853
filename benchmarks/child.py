"""The parent's side of a worker: start it, ask it, end it; a worker that dies becomes one clear error."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import IO, Any, cast

from foldrank.errors import ProviderUnavailable, SourceError

_COMMAND = (sys.executable, "-m", "foldrank.benchmarks.worker")

HUGE_PAGES = "glibc.malloc.hugetlb=1"
TUNABLES = os.environ.get("GLIBC_TUNABLES", HUGE_PAGES)
"""What workers' malloc is told, unless the user tells it otherwise: to ask for huge pages (glibc 2.35 and later, "The
GNU C Library Reference Manual", section Memory Allocation Tunables). In pages of 4 KiB one of two processes with the
same weights may be slower by 6 to 9 % for as long as it lives, depending on which pages it got; in huge ones by 1 %.
"""


class Child:
    """A running worker process. Use as a context manager: leaving it ends the process."""

    def __init__(
        self, name: str, *, command: tuple[str, ...] = _COMMAND, timeout_s: float = 900.0, tunables: str = TUNABLES
    ) -> None:
        """`name` goes into errors, e.g. `dense in genai`. `timeout_s` bounds each answer. `tunables`: of glibc."""
        self.name, self._timeout_s = name, timeout_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process, closed with it
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1", "GLIBC_TUNABLES": tunables}, start_new_session=True,
        )
        self._stdin = cast(IO[bytes], self._process.stdin)
        self._stdout = cast(IO[bytes], self._process.stdout)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a command, wait for its answer. Raises ProviderUnavailable or SourceError with the worker's reason."""
        try:
            self._stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        answer: dict[str, Any] = json.loads(self._line())
        if "error" in answer:
            kind = ProviderUnavailable if answer["unavailable"] else SourceError
            raise kind(**answer["error"])
        return answer

    def close(self) -> None:
        """Let the worker end by itself: its input ends, so it does. Then as `kill`."""
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            self._stdin.close()
            self._process.wait(timeout=30)
        self.kill()

    def kill(self) -> None:
        """End the process now and free what belongs to it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._stdin, self._stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def _line(self) -> bytes:
        if not select.select([self._stdout], [], [], self._timeout_s)[0]:
            what = f"gave no answer in {self._timeout_s:.0f} s"
            raise SourceError(f"benchmark of {self.name}", what, "try a smaller model")
        if line := self._stdout.readline():
            return line
        raise self._death()

    def _death(self) -> SourceError:
        code = self._process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        memory = " (out of memory?)" if code == -signal.SIGKILL else ""
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = f": {said[-1][:300]}" if said else ""
        return SourceError(f"benchmark of {self.name}", f"its process {how}{memory}{reason}", "see `foldrank doctor`")
