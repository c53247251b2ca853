"""Next-token losses of a decoder in nats; logits of one window at a time are held."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from foldrank.plans.models.decoder import Decoder


def mean_loss(decoder: Decoder, hidden_NTC: Tensor, ids_NT: np.ndarray) -> float:
    """Mean over all tokens but the first of each window, where the last block's output is this."""
    total = sum(float(losses.sum()) for losses in _losses(decoder, hidden_NTC, ids_NT))
    return total / (ids_NT.size - len(ids_NT))


def summed_loss(logits_NTV: Tensor, ids_NT: np.ndarray) -> Tensor:
    """Summed next-token loss of the tokens but the first of each window."""
    targets = torch.from_numpy(ids_NT[:, 1:]).to(logits_NTV.device)
    return functional.cross_entropy(logits_NTV[:, :-1].flatten(0, 1).float(), targets.flatten(), reduction="sum")


def drawn_loss(logits_NTV: Tensor, generator: torch.Generator) -> Tensor:
    """Summed -log p of labels drawn from the model itself, as K-FAC's Fisher asks (arXiv 1503.05671)."""
    logits = logits_NTV.flatten(0, -2)
    with torch.no_grad():
        drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
    return -logits.log_softmax(-1).gather(-1, drawn).sum()


def position_losses(decoder: Decoder, ids_NT: np.ndarray) -> np.ndarray:
    """Mean over the windows at every position but the last [T - 1]."""
    rows = [next(_losses(decoder, decoder.forward(row[None]), row[None])) for row in ids_NT]
    return torch.stack(rows).double().mean(dim=0).cpu().numpy()


def _losses(decoder: Decoder, hidden_NTC: Tensor, ids_NT: np.ndarray) -> Iterator[Tensor]:
    """[T - 1] of each window, float32."""
    targets = torch.from_numpy(ids_NT[:, 1:]).to(hidden_NTC.device)
    with torch.no_grad():
        for hidden, wanted in zip(hidden_NTC.split(1), targets, strict=True):
            yield functional.cross_entropy(decoder.logits(hidden)[0, :-1].float(), wanted, reduction="none")
