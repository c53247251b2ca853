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
    """Log probabilities of the dense model; those computed last are kept, `room` numbers of them."""

    source: Decoder
    room: int = ROOM
    _known: dict[bytes, Tensor] = field(default_factory=dict)

    def logs(self, ids_BT: np.ndarray) -> Tensor:
        """Log probabilities [B, T, V] of the token after each."""
        names = [row.tobytes() for row in ids_BT]
        told = {name: self._known[name] for name in names if name in self._known}
        fresh = [row for row, name in enumerate(names) if name not in told]
        if fresh:
            with torch.no_grad():
                found = self.source.logits(self.source.forward(ids_BT[fresh])).log_softmax(-1)
            for row, logs in zip(fresh, found, strict=True):
                told[names[row]] = logs
                self._keep(names[row], logs)
            if len(fresh) == len(names):
                return found
        return torch.stack([told[name] for name in names])

    def _keep(self, name: bytes, logs: Tensor) -> None:
        """A copy, since the batch is let go; the oldest makes room."""
        if most := self.room // logs.numel():
            while len(self._known) >= most:
                del self._known[next(iter(self._known))]
            self._known[name] = logs.clone()
