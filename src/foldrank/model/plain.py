"""Shapes of a block's matrices as the sizes of a config give them, where its family makes them so and no others.

For whoever has a config and no weights. Knows no names of tensors.
"""

from __future__ import annotations

from typing import Any

from foldrank.model import facts

_PLAIN = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "granite", "smollm3",
                    "olmo", "olmo2", "phi3"})
"""`model_type`s whose blocks hold exactly q k v o, gate up down."""


def plain_shapes(config: Any) -> dict[str, tuple[int, int]] | None:
    """[in, out] of each role. None for another family, and where a size is not told."""
    text = facts.text_config(config) if isinstance(config, dict) else {}
    width, inner, heads, kv_heads, size = (fact(text) for fact in (
        facts.width, facts.mlp_width, facts.heads, facts.kv_heads, facts.head_size))
    if text.get("model_type") not in _PLAIN or not (width and inner and heads and kv_heads and size):
        return None
    queries, keys = (width, heads * size), (width, kv_heads * size)
    return {"q": queries, "k": keys, "v": keys, "o": queries[::-1],
            "gate": (width, inner), "up": (width, inner), "down": (inner, width)}
