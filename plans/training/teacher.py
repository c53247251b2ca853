"""What the dense model makes of the windows that recovery trains on, kept as far as there is room.

Of a window its last hidden states are kept, a hundredth of its logits: those are made again, a few tokens at a time.
Windows are drawn several times, and by every plan of one model where a benchmark trains them in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.models.decoder import Decoder

ROOM = 1 << 27
"""Numbers kept (tokens times channels, 4 bytes each): half a gibibyte."""


@dataclass(frozen=True)
class Teacher:
    """The dense model; what was computed last is kept, `room` numbers of it."""

    source: Decoder
    room: int = ROOM
    _known: dict[bytes, Tensor] = field(default_factory=dict)

    def last(self, ids_NT: np.ndarray) -> Tensor:
        """Output of the last block [N, T, C], before the final norm."""
        names = [row.tobytes() for row in ids_NT]
        told = {name: self._known[name] for name in names if name in self._known}
        fresh = [row for row, name in enumerate(names) if name not in told]
        if fresh:
            for row, found in zip(fresh, self.source.forward(ids_NT[fresh]), strict=True):
                told[names[row]] = found
                self._keep(names[row], found)
        return torch.stack([told[name] for name in names])

    def features(self, ids_NT: np.ndarray, numbers: Sequence[int]) -> dict[int, Tensor]:
        """Outputs [N, T, C] of the blocks with these source numbers, and of the last; computed each time."""
        wanted = {*numbers, self.source.blocks[-1].number}
        found: dict[int, Tensor] = {}
        with torch.no_grad():
            hidden = self.source.embed(ids_NT)
            for block in self.source.blocks:
                hidden = self.source.run(block, hidden)
                if block.number in wanted:
                    found[block.number] = hidden
        return found

    def _keep(self, name: bytes, hidden: Tensor) -> None:
        """A copy, since the batch is let go; the oldest makes room."""
        if most := self.room // hidden.numel():
            while len(self._known) >= most:
                del self._known[next(iter(self._known))]
            self._known[name] = hidden.clone()
