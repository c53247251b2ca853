"""How many tokens an export is proved on: past what it has learnt of places and windows, as far as that stays cheap."""

from __future__ import annotations

from dataclasses import dataclass

from foldrank.model.checkpoint import Checkpoint
from foldrank.model.facts import context_length
from foldrank.model.facts import vocabulary as vocabulary_of

_SHORT, _LONG, _MOST, _PAST = 32, 256, 4096, 32
_WORK = 10**12
"""Weights times tokens: some 20 s of two cores."""
_LOGITS = 1 << 27
"""Logits of one window: 512 MiB in float32."""


@dataclass(frozen=True)
class Window:
    """Tokens of a short and of a long window, the size of the vocabulary, and where RoPE scaling starts."""

    short: int
    long: int
    vocabulary: int
    scaled_from: int | None


def window_of(checkpoint: Checkpoint) -> Window:
    """Past the original context and the sliding window where there are such, within the context and the bounds."""
    text = checkpoint.text_config
    context = context_length(text) or _LONG
    vocabulary = vocabulary_of(text) or 2
    scaled_from, sliding = _original(text), text.get("sliding_window")
    edges = [edge for edge in (scaled_from, sliding) if isinstance(edge, int)]
    wanted = max([_LONG, *(edge + _PAST for edge in edges if edge + _PAST <= _MOST)])
    weights = sum(tensor.size for tensor in checkpoint.tensors.values())
    affordable = max(64, min(_WORK // max(1, weights), _LOGITS // vocabulary))
    long = max(2, min(context, wanted, affordable))
    short = min(_SHORT, long, scaled_from or long)
    return Window(max(2, short), long, vocabulary, scaled_from)


def _original(text: dict[str, object]) -> int | None:
    """original_max_position_embeddings, from where a config may hold it."""
    for place in (text, text.get("rope_parameters"), text.get("rope_scaling")):
        if isinstance(place, dict) and isinstance(found := place.get("original_max_position_embeddings"), int):
            return found
    return None
