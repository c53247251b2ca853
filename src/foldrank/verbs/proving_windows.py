"""The tokens that a graph is proved on: text, tokens at random so that each occurs, and one window as long as the
context, as far as that stays cheap."""

from __future__ import annotations

import numpy as np

from foldrank.runtime.decoding.decoder import Tokens
from foldrank.tolerances import MIN_POSITIONS

_WORK = 10**11
"""Weights times tokens of the long window: some 8 s of two cores for reference and graph (4 bits)."""
_LOGITS = 1 << 26
"""Logits of it: 256 MiB in float32."""


def proving(ids_NT: Tokens, vocabulary: int, seed: int) -> Tokens:
    """At least MIN_POSITIONS tokens in windows of text and of random tokens in turn, two or more. Of the random ones
    none occurs twice before all have: a vocabulary of half as many is there whole."""
    window = ids_NT.shape[1]
    wanted = max(2, -(-MIN_POSITIONS // window))
    text_NT = ids_NT[: -(-wanted // 2)]
    drawn_NT = each_once(vocabulary, (wanted - len(text_NT), window), seed)
    both = min(len(text_NT), len(drawn_NT))
    in_turn = np.stack([text_NT[:both], drawn_NT[:both]], axis=1).reshape(-1, window)
    return np.concatenate([in_turn, text_NT[both:], drawn_NT[both:]])


def full_context(context: int | None, vocabulary: int, weights: int, shorter: int, seed: int) -> Tokens | None:
    """One window [1, T] as long as the context, or as is affordable; None where windows of `shorter` are as long."""
    length = min(context or 0, _WORK // max(1, weights), _LOGITS // vocabulary)
    return each_once(vocabulary, (1, length), seed + 1) if length > shorter else None


def each_once(vocabulary: int, shape: tuple[int, int], seed: int) -> Tokens:
    """Random tokens, all before one comes again."""
    random, count = np.random.default_rng(seed), shape[0] * shape[1]
    rounds = [random.permutation(vocabulary) for _ in range(-(-count // vocabulary))]
    found: Tokens = np.concatenate([*rounds, np.zeros(0, np.int64)])[:count].astype(np.int64).reshape(shape)
    return found
