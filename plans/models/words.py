"""What a model says of the next token, small enough to keep: its likeliest words, and the rest as one.

Axes: N windows, T tokens, V vocabulary, K words kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

KEPT = 4096
"""Words kept of a larger vocabulary. What is lost of KL(this || other) is how the others divide the rest, which a model
of 49,152 words gives 0.1 % of all (SmolLM2-135M, prose); never below 0 and never above the whole."""


@dataclass(frozen=True)
class Words:
    """Log probabilities `logs` [N, T, K] of the words `ids` [N, T, K]; None: of all words, in order. `rest` [N, T]: the
    log of what all others have."""

    logs: Tensor
    ids: Tensor | None = None
    rest: Tensor | None = None

    @classmethod
    def of(cls, logits_NTV: Tensor, kept: int = KEPT) -> Words:
        """Of a model's logits; the `kept` likeliest."""
        logs = logits_NTV.to(torch.float32).log_softmax(-1)
        if logs.shape[-1] <= kept:
            return cls(logs)
        found = logs.topk(kept, dim=-1)
        return cls(found.values, found.indices.to(torch.int32), _others(logs, found.indices))

    @classmethod
    def joined(cls, parts: Iterable[Words]) -> Words:
        """Of windows one after the other."""
        logs, ids, rest = zip(*((part.logs, part.ids, part.rest) for part in parts), strict=True)
        return cls(torch.cat(logs), None if ids[0] is None else torch.cat(ids),
                   None if rest[0] is None else torch.cat(rest))

    def __len__(self) -> int:
        return len(self.logs)

    def __getitem__(self, windows: slice) -> Words:
        """Of some windows."""
        return Words(self.logs[windows], None if self.ids is None else self.ids[windows],
                     None if self.rest is None else self.rest[windows])

    def copied(self) -> Words:
        """With tensors of its own."""
        return Words(self.logs.clone(), None if self.ids is None else self.ids.clone(),
                     None if self.rest is None else self.rest.clone())

    def divergence(self, logits_NTV: Tensor) -> Tensor:
        """KL(this || the model of these logits) in nats [N, T], the rest taken as one word; differentiable."""
        if self.ids is None or self.rest is None:
            found = logits_NTV.to(torch.float32).log_softmax(-1)
            return (self.logs.exp() * (self.logs - found)).sum(-1)
        logits, ids = logits_NTV.to(torch.float32), self.ids.to(torch.int64)
        whole = logits.logsumexp(-1)
        kept, others = logits.gather(-1, ids) - whole[..., None], _others(logits, ids) - whole
        return (self.logs.exp() * (self.logs - kept)).sum(-1) + self.rest.exp() * (self.rest - others)

    @property
    def numbers(self) -> int:
        """Held, ids counted."""
        return self.logs.numel() * (1 if self.ids is None else 2)


def _others(logits_NTV: Tensor, ids_NTK: Tensor) -> Tensor:
    """Log of the sum of what words but these have [N, T]. Not 1 less their sum, which rounding would decide."""
    return logits_NTV.scatter(-1, ids_NTK, -torch.inf).logsumexp(-1)
