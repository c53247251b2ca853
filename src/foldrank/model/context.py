"""How long a text a model can really use: a config may claim more than the model was trained for. Needs no torch.

Beyond that its hidden states are of no use to calibrate on, and its perplexity none to judge by: a model trained on
windows of 256 that claims 1,024 may lose twice as many nats at position 400 as at 200.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from foldrank.model.opening import PLAIN, Ids, Opening

WORSE = 0.25
"""Nats a token by which the second half of a window may be worse: well above a topic's drift."""

ROWS = 8
"""Windows that losses are averaged over."""

SHORTEST = 64
"""Windows are not cut below this."""


def usable(
    ids_NT: Ids, position_losses: Callable[[Ids], np.ndarray[Any, Any]], *, opening: Opening = PLAIN
) -> Ids:
    """The same tokens in windows that the model can use; `position_losses` of a few windows, see `usable_window`."""
    return opening.cut_to(ids_NT, usable_window(position_losses(ids_NT[:ROWS])))


def usable_window(losses_P: np.ndarray[Any, Any]) -> int:
    """The longest of T, T/2, T/4, ... tokens whose second half is predicted about as well as the first.

    `losses_P` [T - 1]: mean next-token loss in nats of the dense model at every position but the last.
    """
    window = len(losses_P) + 1
    while window >= 2 * SHORTEST:
        half = window // 2
        if not _worse(losses_P[half : window - 1], losses_P[: half - 1]):
            break
        window = half
    return window


def _worse(second: np.ndarray[Any, Any], first: np.ndarray[Any, Any]) -> bool:
    """By more than WORSE, and by more than two standard errors of the difference."""
    error = float(np.sqrt(second.var() / len(second) + first.var() / len(first)))
    return bool(second.mean() - first.mean() > max(WORSE, 2 * error))
