"""What a change in one block costs in nats, without running what lies above it: the loss to second order.

At a block's output the loss L(h + d) is about L(h) + g d + 1/2 d F d^T, for every token by itself: g the gradient of
the measured loss there, none where the model is the original, and F = E[s^T s] over tokens, s the gradient of the log
likelihood by that output (`fisher.py`; its curve there is that of a divergence). Running the changed block alone gives
d. What attention above makes of several tokens' changes together is left out: on SmolLM2-135M 37 changes of all kinds
measured 0.9 to 2.7 times what this gives, most of them 1.2 to 1.7, where predictions by site were off by 0.8 to 4.5;
low in the model more than high, so a few whole measurements correct it (`found.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Above:
    """Of a model on the measuring windows: its blocks' `outputs` [N, T, C], lowest first, the mean loss's gradient by
    them (`slopes`, empty: none), and F [C, C] there."""

    outputs: Sequence[Tensor]
    slopes: Sequence[Tensor]
    fishers: Sequence[Tensor]

    def added(self, position: int, output_NTC: Tensor) -> float:
        """Mean nats a token more where the block at this position gives that output."""
        change = (output_NTC - self.outputs[position]).flatten(0, 1)
        bend = float(((change @ self.fishers[position]) * change).sum()) / (2 * len(change))
        tilt = float((self.slopes[position].flatten(0, 1) * change).sum()) if self.slopes else 0.0
        return bend + tilt
