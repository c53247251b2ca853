"""Values of a config.json, and dtypes of tensors, with which no model can compute.

PyTorch and every exporter fill in alike or compute the same nonsense, so that a proof of one by the other passes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from foldrank.model.facts import EPSILONS
from foldrank.model.tensorfile import StoredTensor

_COUNTS = ("hidden_size", "n_embd", "num_attention_heads", "n_head", "num_key_value_heads", "num_kv_heads", "head_dim",
           "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "vocab_size", "max_position_embeddings",
           "n_positions", "word_embed_proj_dim", "original_max_position_embeddings")
_POSITIVE = ("rope_theta", "rotary_emb_base", "rope_local_base_freq", "rope_embedding_base", "logits_scaling",
             "embedding_multiplier", "residual_multiplier", "attention_multiplier", "query_pre_attn_scalar",
             "final_logit_softcapping", "attn_logit_softcapping")
_SHARES = ("rotary_pct", "partial_rotary_factor")
_ROPE_POSITIVE = ("rope_theta", "factor", "attention_factor", "low_freq_factor", "high_freq_factor", "beta_fast",
                  "beta_slow", "original_max_position_embeddings")
_MASKS = re.compile(r"(attn|attention|self_attention)\.(bias|masked_bias)$|position_ids$|\.version$")
"""Tensors that are no weights, though older checkpoints hold them."""


def implausible(text: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> list[str]:
    """What of a decoder's config and of its tensors' dtypes cannot be; a key without a value is not asked."""
    return [*_numbers(text), *_heads(text), *_rope(text), *_window(text), *_dtypes(tensors)]


def _numbers(text: Mapping[str, Any]) -> Iterator[str]:
    for key in EPSILONS:
        if key in text and not (_is_number(text[key]) and 0 < text[key] < 1):
            yield f"{key} is {text[key]!r}, not between 0 and 1"
    for key in _COUNTS:
        if text.get(key) is not None and not (type(text[key]) is int and text[key] > 0):
            yield f"{key} is {text[key]!r}, not a count"
    for key in _POSITIVE:
        if text.get(key) is not None and not (_is_number(text[key]) and text[key] > 0):
            yield f"{key} is {text[key]!r}, not a number above 0"
    for key in _SHARES:
        if text.get(key) is not None and not _is_share(text[key]):
            yield f"{key} is {text[key]!r}, not a share above 0"


def _heads(text: Mapping[str, Any]) -> Iterator[str]:
    width, heads = (_first(text, *keys) for keys in (("hidden_size", "n_embd"), ("num_attention_heads", "n_head")))
    shared = _first(text, "num_key_value_heads")
    if heads and shared and heads % shared:
        yield f"{heads} attention heads cannot share {shared} key and value heads"
    if heads and width and text.get("head_dim") is None and width % heads:
        yield f"a width of {width} cannot be cut into {heads} heads"
    size = _first(text, "head_dim") or (width // heads if heads and width else 0)
    rope = text.get("rope_parameters")
    if size and (text.get("rope_theta") is not None or isinstance(rope, dict)):
        places = (text, rope if isinstance(rope, dict) else {})
        share = next((place[key] for place in places for key in _SHARES if _is_share(place.get(key))), 1.0)
        if (turned := int(size * share)) < 2 or turned % 2:
            yield f"rotary positions turn pairs, and {turned} of a head's {size} channels are none"


def _rope(text: Mapping[str, Any]) -> Iterator[str]:
    """Rotary settings as either version of transformers keeps them, for one kind of attention or for several."""
    for name in ("rope_scaling", "rope_parameters"):
        held = text.get(name)
        parts = [held, *held.values()] if isinstance(held, dict) else []
        for part in parts:
            if not isinstance(part, dict):
                continue
            for key in _ROPE_POSITIVE:
                if part.get(key) is not None and not (_is_number(part[key]) and part[key] > 0):
                    yield f"{name}.{key} is {part[key]!r}, not a number above 0"
            if part.get(_SHARES[1]) is not None and not _is_share(part[_SHARES[1]]):
                yield f"{name}.{_SHARES[1]} is {part[_SHARES[1]]!r}, not a share above 0"


def _window(text: Mapping[str, Any]) -> Iterator[str]:
    window = text.get("sliding_window")
    if window is not None and text.get("use_sliding_window") is not False and not (type(window) is int and window > 0):
        yield f"sliding_window is {window!r}, not a count"


def _dtypes(tensors: Mapping[str, StoredTensor]) -> Iterator[str]:
    for name, tensor in tensors.items():
        whole = tensor.dtype.kind in "iub"
        if (whole or tensor.dtype.name.startswith("float8")) and not _MASKS.search(name):
            yield f"{name} is stored as {tensor.dtype.name}, which is no dtype of plain weights"


def _first(text: Mapping[str, Any], *keys: str) -> int | None:
    return next((text[key] for key in keys if type(text.get(key)) is int and text[key] > 0), None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: object) -> bool:
    return _is_number(value) and 0 < float(str(value)) <= 1
