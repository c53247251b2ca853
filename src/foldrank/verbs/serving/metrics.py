"""Counts and times as Prometheus reads them, text format 0.0.4. Names end in their unit, as its guide asks."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Counter:
    """Ever more, by labels."""

    kind = "counter"

    def __init__(self, name: str, says: str, *labels: str) -> None:
        self.name, self.says, self._labels = name, says, labels
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}
        self._lock = threading.Lock()

    def add(self, by: float = 1, *labels: str) -> None:
        """Count, under these values of the labels."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0.0) + by

    def lines(self) -> Iterable[str]:
        """Its samples."""
        with self._lock:
            values = sorted(self._values.items())
        for labels, value in values:
            yield f"{self.name}{_braced(zip(self._labels, labels, strict=True))} {value:g}"


class Gauge:
    """What something is at the moment."""

    kind = "gauge"

    def __init__(self, name: str, says: str, value: Callable[[], float]) -> None:
        self.name, self.says, self._value = name, says, value

    def lines(self) -> Iterable[str]:
        """Its sample."""
        yield f"{self.name} {self._value():g}"


class Histogram:
    """How long something took, in seconds."""

    kind = "histogram"

    def __init__(self, name: str, says: str) -> None:
        self.name, self.says = name, says
        self._counts, self._sum, self._lock = [0] * (len(_SECONDS) + 1), 0.0, threading.Lock()

    def add(self, seconds: float) -> None:
        """One time that was measured."""
        with self._lock:
            self._counts[bisect_left(_SECONDS, seconds)] += 1
            self._sum += seconds

    def lines(self) -> Iterable[str]:
        """Cumulative buckets, sum and count."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        below = 0
        for bound, count in zip([*map(str, _SECONDS), "+Inf"], counts, strict=True):
            below += count
            yield f'{self.name}_bucket{{le="{bound}"}} {below}'
        yield f"{self.name}_sum {total:.9g}"
        yield f"{self.name}_count {below}"


class Metrics:
    """Everything that one server counts."""

    def __init__(self, running: Callable[[], float], waiting: Callable[[], float]) -> None:
        self.requests = Counter("foldrank_requests_total", "Requests that were answered.", "endpoint", "status")
        self.prompt_tokens = Counter("foldrank_prompt_tokens_total", "Tokens of prompts that were taken.")
        self.new_tokens = Counter("foldrank_generated_tokens_total", "Tokens that were written.")
        self.left = Counter("foldrank_disconnected_total", "Requests whose client went before the end.")
        self.first = Histogram("foldrank_time_to_first_token_seconds", "From the request to its first token.")
        self.whole = Histogram("foldrank_request_seconds", "From the request to its last token.")
        gauges = (Gauge("foldrank_texts_running", "Texts that are being written.", running),
                  Gauge("foldrank_texts_waiting", "Texts that wait for a writer.", waiting))
        self._all = (self.requests, self.prompt_tokens, self.new_tokens, self.left, self.first, self.whole, *gauges)

    def text(self) -> str:
        """All of it."""
        return "\n".join(line for one in self._all for line in (
            f"# HELP {one.name} {one.says}", f"# TYPE {one.name} {one.kind}", *one.lines())) + "\n"


def _braced(labels: Iterable[tuple[str, str]]) -> str:
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{inner}}}" if inner else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
