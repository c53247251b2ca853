"""What the dense model says of the windows that recovery trains on, kept as far as there is room.

Windows are drawn several times, and by every plan of one model where a benchmark trains them in a row.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.models.decoder import Decoder

ROOM = 1 << 27
"""Numbers kept (tokens * vocabulary, float32): half a gibibyte."""


@dataclass(frozen=True)
class Teacher:
    """Log probabilities of the dense model; of the windows seen last as many as fit into `room` numbers are kept."""

    source: Decoder
    room: int = ROOM
    _known: dict[bytes, Tensor] = field(default_factory=dict)

    def logs(self, ids_BT: np.ndarray) -> Tensor:
        """Log probabilities [B, T, V] of the token after each."""
        names = [row.tobytes() for row in ids_BT]
        fresh = [row for row, name in enumerate(names) if name not in self._known]
        if fresh:
            with torch.no_grad():
                found = self.source.logits(self.source.forward(ids_BT[fresh])).log_softmax(-1)
            self._known.update(zip((names[row] for row in fresh), (logs.clone() for logs in found), strict=True))
        asked = torch.stack([self._known[name] for name in names])
        self._forget(self.room // asked[0].numel())
        return asked

    def _forget(self, most: int) -> None:
        """Drop the oldest beyond so many."""
        for name in list(self._known)[: max(0, len(self._known) - most)]:
            del self._known[name]
