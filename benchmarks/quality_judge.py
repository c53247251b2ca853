"""What a compressed model says of held-out text beside what the dense one says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.calibration import usable
from foldrank.plans.models.decoder import Decoder, load_decoder
from foldrank.plans.texts import cut_windows, load_tokenizer, read_text

TOKENS, WINDOW = 20_480, 512
"""Held-out tokens, in windows that do not overlap: of WINDOW tokens, or fewer where the model cannot use so many."""


@dataclass(frozen=True)
class Judge:
    """The dense model and what it says of held-out windows [N, T]."""

    decoder: Decoder
    ids: np.ndarray

    @cached_property
    def hidden(self) -> list[Tensor]:
        """What the dense model gives before its final norm, by window [1, T, C]: logits of all would fill memory."""
        return [self.decoder.forward(row[None]) for row in self.ids]

    @property
    def dense(self) -> Iterator[Tensor]:
        """Log probabilities [T - 1, V] of the dense model for every window."""
        return (_logs(self.decoder, hidden) for hidden in self.hidden)

    @property
    def perplexity(self) -> float:
        """Of the dense model."""
        nats = -sum(float(logs.gather(-1, _targets(row, logs)).sum())
                    for row, logs in zip(self.ids, self.dense, strict=True))
        return math.exp(nats / (self.ids.size - len(self.ids)))

    def figures(self, small: Decoder) -> dict[str, float]:
        """Perplexity over dense, KL in nats, top-1 agreement of a compressed model."""
        sums = np.zeros(3)
        for row, dense in zip(self.ids, self.dense, strict=True):
            small_logs = _logs(small, small.forward(row[None]))
            sums += [
                float((dense - small_logs).gather(-1, _targets(row, dense)).sum()),
                float((dense.exp() * (dense - small_logs)).sum()),
                float((dense.argmax(-1) == small_logs.argmax(-1)).sum()),
            ]
        nats, kl, same = sums / (self.ids.size - len(self.ids))
        return {"perplexity_ratio": math.exp(nats), "kl_nats": max(0.0, kl), "top1_agreement": same}


def judge(checkpoint: Checkpoint, text: Path | None, device: str = "cpu") -> Judge:
    """The first TOKENS tokens of a held-out text, default the installed one, in windows the model can use."""
    tokenizer = load_tokenizer(checkpoint.path)
    windows = cut_windows(
        read_text(text, "validation"), tokenizer, window=WINDOW, windows=TOKENS // WINDOW, seed=None
    )
    decoder = load_decoder(checkpoint, device=device)
    return Judge(decoder, usable(decoder, windows).ids)


def _targets(row_T: np.ndarray, logs: Tensor) -> Tensor:
    return torch.from_numpy(row_T[1:, None]).to(logs.device)


def _logs(decoder: Decoder, hidden_1TC: Tensor) -> Tensor:
    """Log probabilities [T - 1, V] of the tokens but the first, float64."""
    with torch.no_grad():
        return decoder.logits(hidden_1TC)[0, :-1].to(torch.float64).log_softmax(-1)
