"""How a token is chosen: the settings, and ONNX Runtime's way to follow them. Axis: V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. Temperature 0 is greedy, and then the rest has no say."""

    temperature: float = 0.0
    top_k: int = 50
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 1 or not 0 < self.top_p <= 1:
            raise ValueError(f"temperature from 0, top_k from 1, top_p in (0, 1], not {self}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0


def choose(logits_V: NDArray[Any], sampling: Sampling, random: np.random.Generator) -> int:
    """One token: the likeliest, or drawn after temperature, top-k and top-p."""
    if sampling.greedy:
        return int(logits_V.argmax())
    order = np.argsort(-logits_V, kind="stable")[: sampling.top_k]
    scaled = (logits_V[order].astype(np.float64) - float(logits_V[order[0]])) / sampling.temperature
    shares = np.exp(scaled) / np.exp(scaled).sum()
    kept = int(np.searchsorted(np.cumsum(shares), sampling.top_p)) + 1
    return int(random.choice(order[:kept], p=shares[:kept] / shares[:kept].sum()))
