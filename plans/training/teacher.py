"""What the dense model says of the windows that recovery trains on, kept as far as there is room.

Windows are drawn several times, and by every plan of one model where a benchmark trains them in a row.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.words import Words

ROOM = 1 << 27
"""Numbers kept (tokens times words and their ids, 4 bytes each): half a gibibyte."""


@dataclass(frozen=True)
class Teacher:
    """What the dense model says; what was computed last is kept, `room` numbers of it."""

    source: Decoder
    room: int = ROOM
    _known: dict[bytes, Words] = field(default_factory=dict)

    def words(self, ids_BT: np.ndarray) -> Words:
        """Of the token after each."""
        names = [row.tobytes() for row in ids_BT]
        told = {name: self._known[name] for name in names if name in self._known}
        fresh = [row for row, name in enumerate(names) if name not in told]
        if fresh:
            with torch.no_grad():
                found = Words.of(self.source.logits(self.source.forward(ids_BT[fresh])))
            for place, row in enumerate(fresh):
                told[names[row]] = found[place : place + 1]
                self._keep(names[row], told[names[row]])
            if len(fresh) == len(names):
                return found
        return Words.joined(told[name] for name in names)

    def _keep(self, name: bytes, words: Words) -> None:
        """A copy, since the batch is let go; the oldest makes room."""
        if most := self.room // words.numbers:
            while len(self._known) >= most:
                del self._known[next(iter(self._known))]
            self._known[name] = words.copied()
