"""The two tables of words that a checkpoint holds, and whether they are one: the embedding, and what makes the logits.

Knows names of tensors. Reads numbers only where both tables are there and the config says that they are one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from foldrank.model.tensorfile import StoredTensor

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.weight$|^output\.weight$")
_CHUNK = 1 << 22


def embedding_table(tensors: Mapping[str, StoredTensor]) -> StoredTensor | None:
    """The tensor that holds the embedding of tokens, by the names that families give it."""
    return next((tensor for name, tensor in tensors.items() if name.endswith(_EMBEDDINGS)), None)


def stored_head(tensors: Mapping[str, StoredTensor]) -> StoredTensor | None:
    """The tensor that makes the logits, where one is stored for that."""
    return next((tensor for name, tensor in tensors.items() if _HEAD.search(name)), None)


def is_tied(text: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether the embedding table makes the logits too: no head is stored, or the same numbers. `text`: the decoder's
    config."""
    if stored_head(tensors) is None:
        return True
    return text.get("tie_word_embeddings") is not False and not other_head(tensors)


def other_head(tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether head and embedding are both there and differ in any number."""
    head, table = stored_head(tensors), embedding_table(tensors)
    if head is None or table is None:
        return False
    return head.shape != table.shape or any(
        not np.array_equal(_piece(head, at), _piece(table, at)) for at in range(0, head.size, _CHUNK)
    )


def _piece(tensor: StoredTensor, first: int) -> np.ndarray[Any, Any]:
    """At most 4 Mi numbers from that one on, float64 or as they are stored."""
    count = min(_CHUNK, tensor.size - first)
    offset = tensor.start + first * tensor.dtype.itemsize
    return np.fromfile(tensor.path, tensor.dtype, count, offset=offset).astype(np.float64)
