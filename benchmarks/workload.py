"""What is timed: a prompt is read (time to first token), then tokens follow one by one (time per output token)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

ENGINES = ("genai", "onnxruntime")
"""onnxruntime-genai, and ONNX Runtime itself with IO binding (`foldrank.runtime.decoding.decoder`)."""


@dataclass(frozen=True)
class Workload:
    """`batch` rows of `prompt` tokens, then `tokens` more each. All rows are equally long: nothing is padded."""

    prompt: int
    batch: int
    tokens: int

    @property
    def capacity(self) -> int:
        """Positions the cache must hold."""
        return self.prompt + self.tokens

    @property
    def context(self) -> float:
        """Positions a token after the first looks at, on average: prompt + 1 to prompt + tokens - 1."""
        return self.prompt + self.tokens / 2

    def prompts(self, vocabulary: int, seed: int) -> NDArray[np.int64]:
        """Token ids [batch, prompt], uniform: a dense decoder's speed does not depend on which tokens it reads."""
        return np.random.default_rng(seed).integers(vocabulary, size=(self.batch, self.prompt))


@dataclass(frozen=True)
class Profile:
    """How much is measured. `launches`: how often the workers are started afresh; pairs are spread over them.
    `reading_s`: in a pair a short prompt is read again until so many seconds went into it."""

    name: str
    workloads: tuple[Workload, ...]
    pairs: int = 20
    warmups: int = 5
    launches: int = 2
    engines: tuple[str, ...] = ENGINES
    reading_s: float = 0.3

    def __post_init__(self) -> None:
        if self.pairs < 20 or self.warmups < 5:
            raise ValueError(f"{self.pairs} pairs after {self.warmups} warm-ups prove nothing: at least 20 after 5")

    def within(self, positions: int) -> Profile:
        """The workloads that fit a model's context length."""
        return replace(self, workloads=tuple(w for w in self.workloads if w.capacity <= positions))


QUICK = Profile("quick", tuple(Workload(prompt, 1, 16) for prompt in (16, 128)), reading_s=0.1)
FULL = Profile(
    "full", tuple(Workload(prompt, batch, 32) for batch in (1, 4) for prompt in (16, 128, 512)), pairs=24, launches=4
)
