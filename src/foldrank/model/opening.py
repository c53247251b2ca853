"""What every window of tokens opens with: the beginning-of-text token where the model is to see one.

Knows token ids. Which token that is, `plans/encoding.py` decides. Axes: N windows, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Ids = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Opening:
    """`bos`: the token at the front of every window, one of its T; None: windows hold nothing but text."""

    bos: int | None = None

    @property
    def front(self) -> int:
        """Tokens of a window that are none of the text's."""
        return 0 if self.bos is None else 1

    def cut(self, text_T: Ids, window: int) -> Ids:
        """Windows [N, window] of one run of the text's tokens, without padding or overlap; the remainder is left."""
        return self.wrapped(_parts(text_T[None], window - self.front))

    def cut_to(self, ids_NT: Ids, window: int) -> Ids:
        """Windows that open like this, as many more of `window` tokens; what is left over in each is dropped."""
        return self.wrapped(_parts(ids_NT[:, self.front :], window - self.front))

    def wrapped(self, text_NT: Ids) -> Ids:
        """Rows of the text's tokens, with what stands in front of each."""
        if self.bos is None:
            return text_NT
        return np.concatenate([np.full((len(text_NT), 1), self.bos, text_NT.dtype), text_NT], axis=1)


PLAIN = Opening()
"""Nothing in front."""


def _parts(ids_NT: Ids, size: int) -> Ids:
    count = ids_NT.shape[1] // size
    return ids_NT[:, : count * size].reshape(-1, size)
