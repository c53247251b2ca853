"""The order in which two contestants take turns: A B B A, so that a slow drift of the machine cancels.

A turn is a whole sample (a prompt and its continuation) or, after both have read their prompts, one token. Where the
weights do not fit in the processor's caches nothing that counts survives from one token to the next anyway, and turns
a few milliseconds apart see the same machine: on a busy one the interval of dense against dense shrinks from a tenth to
a fiftieth in the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

Turn = Literal["a", "b"]
Turns = Literal["sample", "token"]


def abba(pairs: int) -> Iterator[tuple[Turn, Turn]]:
    """Yield the order of each pair: (a, b), (b, a), (a, b), ... Raises ValueError below one pair."""
    if pairs < 1:
        raise ValueError(f"{pairs} pairs: at least one is needed")
    for pair in range(pairs):
        yield ("a", "b") if pair % 2 == 0 else ("b", "a")


def shares(pairs: int, launches: int) -> list[int]:
    """Pairs of each launch: even numbers (whole A B B A turns), together at least `pairs`."""
    if launches < 1:
        raise ValueError(f"{launches} launches: at least one is needed")
    each = -(-pairs // (2 * launches)) * 2
    return [each] * launches
