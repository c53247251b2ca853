"""The windows of text that a search runs on: short ones, some to measure on and the others to fit to."""

from __future__ import annotations

import numpy as np

from foldrank.model.opening import PLAIN, Opening

SEARCH_TOKENS = 6144
"""Tokens that blocks are refit on while the search runs; the result is refit on all."""

SEARCH_WINDOW = 256
"""Longest window the search runs: attention's cost grows with its square."""


def shortened(ids_NT: np.ndarray, opening: Opening = PLAIN) -> np.ndarray:
    """The same tokens in windows of at most SEARCH_WINDOW."""
    parts = -(-ids_NT.shape[1] // SEARCH_WINDOW)
    return opening.cut_to(ids_NT, ids_NT.shape[1] // parts)


def split(ids_NT: np.ndarray, opening: Opening = PLAIN) -> tuple[np.ndarray, np.ndarray]:
    """(measuring, fitting) windows: every third, and the others; where there is only one, its two halves."""
    if len(ids_NT) == 1:
        halves = opening.cut_to(ids_NT, ids_NT.shape[1] // 2)
        return halves[1:2], halves[:1]
    chosen = np.arange(len(ids_NT)) % 3 == 1
    return ids_NT[chosen], ids_NT[~chosen]
