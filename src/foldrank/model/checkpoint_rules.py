"""What a config.json may ask for, and whether it speaks of the tensors beside it.

A tensor that is missing would be filled with random numbers by the loading library, which only warns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from foldrank import strictjson
from foldrank.edits.base import BRANCHES
from foldrank.errors import SourceError
from foldrank.model import facts
from foldrank.model.modules import by_block
from foldrank.model.plain import plain_shapes
from foldrank.model.tensorfile import StoredTensor
from foldrank.model.tied import embedding_table, stored_head

_PACKED = frozenset({"phi3"})
"""Families whose matrices lie several in one weight."""


def remote_code(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """The file that brings or asks for code of its own, if any: `auto_map`, or `trust_remote_code` at any depth."""
    if _asks(config):
        return folder / "config.json"
    for name in ("tokenizer_config.json", "generation_config.json"):
        path = folder / name
        try:
            if path.is_file() and _asks(strictjson.read_foreign(path)):
                return path
        except (OSError, strictjson.JsonError) as error:
            raise SourceError(path, str(error), "fetch the checkpoint again") from None
    return None


def _asks(value: Any) -> bool:
    if isinstance(value, dict):
        return any(key in ("auto_map", "trust_remote_code") and inner for key, inner in value.items()) or any(
            map(_asks, value.values())
        )
    return isinstance(value, list) and any(map(_asks, value))


def config_problems(config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Every disagreement that names and shapes show, without reading a weight."""
    text = facts.text_config(config)
    blocks = by_block(tensors)
    return [*_counts(text, blocks), *_embedding(text, tensors), *_uneven(text, blocks), *_shapes(text, blocks)]


def _counts(text: Mapping[str, Any], blocks: Mapping[int, Any]) -> Iterator[str]:
    wanted = facts.blocks(text) or 0
    if len(blocks) != wanted or any(number >= wanted for number in blocks):
        missing = list(islice((number for number in range(wanted) if number not in blocks), 5))
        extra = sorted(number for number in blocks if number >= wanted)[:5]
        yield f"it speaks of {wanted} blocks, the weights of {len(blocks)} (missing {missing}, beyond {extra})"
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and len(kinds) != wanted:
        yield f"layer_types has {len(kinds)} entries for {wanted} blocks"


def _embedding(text: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> Iterator[str]:
    table = embedding_table(tensors)
    wanted = (facts.vocabulary(text), facts.width(text))
    if table is None:
        yield "no embedding table among the weights"
    elif None not in wanted and table.shape != wanted and "word_embed_proj_dim" not in text:
        yield f"{table.name} is {table.shape}, vocab_size and hidden_size say {wanted}"
    if text.get("tie_word_embeddings") is False and stored_head(tensors) is None:
        yield "tie_word_embeddings is false, but there is no lm_head.weight"


def _uneven(text: Mapping[str, Any], blocks: Mapping[int, dict[str, StoredTensor]]) -> Iterator[str]:
    """Blocks of one kind hold the same tensors of the same shapes; mixtures and shared caches are not that regular."""
    if not blocks or any("expert" in key or "shared_layers" in key for key in text):
        return
    kinds = text.get("layer_types") or []
    first: dict[Any, int] = {}
    for number in sorted(blocks):
        kind = kinds[number] if number < len(kinds) else None
        model = blocks[first.setdefault(kind, number)]
        for suffix in sorted(set(model) ^ set(blocks[number])):
            lacking, having = (number, first[kind]) if suffix in model else (first[kind], number)
            yield f"block {lacking} has no {suffix}, block {having} has"


def _shapes(text: Mapping[str, Any], blocks: Mapping[int, dict[str, StoredTensor]]) -> Iterator[str]:
    if (wanted := plain_shapes(text)) is None or text.get("model_type") in _PACKED:
        return
    for number, block in sorted(blocks.items()):
        for role, shape in wanted.items():
            name = f"{'self_attn' if role in BRANCHES['attention'] else 'mlp'}.{role}_proj"
            tensor = block.get(f"{name}.weight")
            if tensor is not None and tensor.shape != shape[::-1]:
                yield f"{tensor.name} is {tensor.shape}, the sizes say {shape[::-1]}"
            if tensor is None and role != "gate":
                yield f"block {number} has no {name}.weight"
