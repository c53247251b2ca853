"""The order in which two contestants take turns: A B B A, so that a slow drift of the machine cancels.

A turn is a whole sample (a prompt and its continuation) or, once both have read their prompts, a few tokens: turns a
few milliseconds apart see the same machine, however busy it is. Where the weights do not fit in the processor's caches
nothing that counts survives there from one token to the next, and one token is a turn; where they may fit, the first
token of a turn brings them back and is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Turn = Literal["a", "b"]


@dataclass(frozen=True)
class Turns:
    """How long a turn is: so many tokens, the first `unheard` of which are not counted; None: a whole sample."""

    tokens: int | None = None
    unheard: int = 0

    def __str__(self) -> str:
        if self.tokens is None:
            return "a whole sample"
        heard = f", the first {self.unheard} not counted" if self.unheard else ""
        return f"{self.tokens} token{'s' if self.tokens > 1 else ''}{heard}"

    def split(self, steps: int) -> list[int]:
        """So many steps in turns, none without a step that counts."""
        assert self.tokens is not None
        sizes = [min(self.tokens, steps - start) for start in range(0, steps, self.tokens)]
        return [size for size in sizes if size > self.unheard]


WHOLE, ONE, FEW = Turns(), Turns(1), Turns(3, unheard=1)


def abba(pairs: int) -> Iterator[tuple[Turn, Turn]]:
    """Yield the order of each pair: (a, b), (b, a), (a, b), ... Raises ValueError below one pair."""
    if pairs < 1:
        raise ValueError(f"{pairs} pairs: at least one is needed")
    for pair in range(pairs):
        yield ("a", "b") if pair % 2 == 0 else ("b", "a")


def starting(names: Iterable[str], launch: int) -> list[str]:
    """The order in which workers start: turned in every second launch, since who starts first finds other memory than
    who comes last."""
    return list(names)[:: -1 if launch % 2 else 1]


def shares(pairs: int, launches: int) -> list[int]:
    """Pairs of each launch: even numbers (whole A B B A turns), together at least `pairs`."""
    if launches < 1:
        raise ValueError(f"{launches} launches: at least one is needed")
    each = -(-pairs // (2 * launches)) * 2
    return [each] * launches
