"""Text up to a stop: what might be the beginning of one is held back until it is known."""

from __future__ import annotations

from collections.abc import Sequence


class Held:
    """Text that comes in pieces and ends before the first of `stops`."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = stops, ""
        self.stopped = False

    def add(self, piece: str) -> str:
        """What may be shown now. Where a stop came, `stopped` is true and nothing comes any more."""
        if self.stopped:
            return ""
        text = self._held + piece
        if places := [place for stop in self._stops if (place := text.find(stop)) >= 0]:
            self.stopped, self._held = True, ""
            return text[: min(places)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        shown, self._held = text[: len(text) - keep], text[len(text) - keep :]
        return shown

    def rest(self) -> str:
        """What was held back and turned out to be no stop."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` begins with, fewer than all of it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
