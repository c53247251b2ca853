"""Token ids that the model has no embedding for: a tokenizer knows more tokens than the table has rows.

Some kernels read past the table, others fail in the middle of the work: told before, with the token's text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from foldrank.errors import SourceError


def check_rows(
    ids: Sequence[int] | np.ndarray[Any, Any], rows: int | None, where: str, spell: Callable[[int], str]
) -> None:
    """Raise SourceError where an id is not below `rows` (None: unknown). `spell` gives a token's text."""
    found = np.asarray(ids, dtype=np.int64)
    if rows is None or found.size == 0 or int(found.max()) < rows:
        return
    token = int(found[found >= rows][0])
    what = f"token {spell(token)!r} has the id {token}, the model's embedding table has {rows:,} rows"
    raise SourceError(where, what, "leave that token out, or take the tokenizer that the model was trained with")
