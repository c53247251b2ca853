"""What a config.json says of a model, under whichever key its family keeps it: the one reader of these.

Knows names of keys. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len", "seq_length")


def context_length(config: Any) -> int | None:
    """Positions the model looks at; None where no key tells (ALiBi, older Falcons) or what is told is no number > 0."""
    if not isinstance(config, Mapping):
        return None
    text = config.get("text_config", config)
    text = text if isinstance(text, Mapping) else config
    found = (text.get(key) for key in _CONTEXT)
    return next((n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)
