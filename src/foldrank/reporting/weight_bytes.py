"""Where a bundle's bytes are, before and after, from shapes alone: config.json, the plan's edits and the stored dtype.

Knows decoders of the Llama kind (q k v o, gate up down). For another kind it says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foldrank.edits.low_rank import rank_limit
from foldrank.reporting import lookup
from foldrank.reporting.evidence import Evidence
from foldrank.sites import PACKED

_GATED = {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "granite", "smollm3", "olmo2"}
"""`model_type`s whose blocks hold exactly the seven roles."""
ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
GROUPS = {"q": "q k v", "k": "q k v", "v": "q k v", "o": "o", "gate": "gate up", "up": "gate up", "down": "down"}


@dataclass(frozen=True)
class Share:
    """Bytes of one part of the model in the dense and in this bundle."""

    part: str
    dense: int
    here: int


@dataclass(frozen=True)
class Split:
    """Weights by part, and the key/value cache at `context` positions, batch 1. A tied head is counted once."""

    weights: tuple[Share, ...]
    cache: Share
    context: int

    @property
    def dense(self) -> int:
        """Bytes of all weights counted, dense."""
        return sum(share.dense for share in self.weights)

    @property
    def here(self) -> int:
        """Bytes of all weights counted, in this bundle."""
        return sum(share.here for share in self.weights)


def role_shapes(evidence: Evidence) -> dict[str, tuple[int, int]] | None:
    """[in, out] of each role, or None for a decoder of another kind."""
    config = evidence.config
    width, inner = lookup.integer(config, "hidden_size"), lookup.integer(config, "intermediate_size")
    queries, cache = lookup.integer(config, "num_attention_heads"), evidence.cache_shape
    if lookup.text(config, "model_type") not in _GATED or not (width and inner and queries and cache):
        return None
    heads, head_size = cache
    q, kv = queries * head_size, heads * head_size
    return {
        "q": (width, q),
        "k": (width, kv),
        "v": (width, kv),
        "o": (q, width),
        "gate": (width, inner),
        "up": (width, inner),
        "down": (inner, width),
    }


def split(evidence: Evidence, context: int = 1024) -> Split | None:
    """The split, or None where a shape, a count of blocks or the dtype is not known."""
    shapes, item = role_shapes(evidence), ITEM_BYTES.get(lookup.text(evidence.manifest, "dtype") or "")
    before, after = evidence.source_blocks, evidence.blocks
    vocabulary = lookup.integer(evidence.config, "vocab_size")
    if shapes is None or item is None or not before or not after or not vocabulary or evidence.cache_shape is None:
        return None
    saved = _saved(evidence.pairs, shapes)
    parts: dict[str, tuple[int, int]] = {}
    for role, (n_in, n_out) in shapes.items():
        dense, here = parts.get(GROUPS[role], (0, 0))
        parts[GROUPS[role]] = (dense + before * n_in * n_out, here + after * n_in * n_out)
    each = _stored_bytes(evidence, item)
    weights = [Share(part, item * d, round(each * (h - saved.get(part, 0)))) for part, (d, h) in parts.items()]
    numbers = vocabulary * shapes["q"][0]
    table, few = item * numbers, evidence.head and round(_few_bits(evidence.head, item) * numbers)
    if lookup.at(evidence.config, "tie_word_embeddings") is True:  # few bits are kept beside the table
        weights.append(Share("embedding and head", table, table + (few or 0)))
    else:
        weights += [Share("embedding", table, table), Share("head", table, few or table)]
    per_block = 2 * item * evidence.cache_shape[0] * evidence.cache_shape[1] * context
    return Split(tuple(weights), Share("KV cache", before * per_block, after * per_block), context)


def _stored_bytes(evidence: Evidence, item: int) -> float:
    """Of one weight in a block: as the dtype has it, or in few bits with its share of a scale and a zero point."""
    edit = next(iter(evidence.quantized), None)
    return item if edit is None else _few_bits(edit, item)


def _few_bits(edit: Mapping[str, object], item: int) -> float:
    bits, size = (lookup.integer(edit, "storage", key) for key in ("bits", "block_size"))
    if not bits or not size:
        return item
    zeros = 0 if lookup.at(edit, "storage", "symmetric") is True else bits / 8
    return bits / 8 + (item + zeros) / size


def _saved(pairs: list[Mapping[str, object]], shapes: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Numbers saved by low-rank pairs, by part."""
    saved: dict[str, int] = {}
    for edit in pairs:
        role = (lookup.text(edit, "site") or "").rpartition(".")[2]
        roles, rank = PACKED.get(role, (role,)), lookup.integer(edit, "rank")
        if rank is None or any(name not in shapes for name in roles):
            continue
        n_in, n_out = shapes[roles[0]][0], sum(shapes[name][1] for name in roles)
        part = GROUPS[roles[0]]
        saved[part] = saved.get(part, 0) + n_in * n_out - rank * (n_in + n_out)
    return saved


def largest_rank(shape: tuple[int, int]) -> int:
    """The rank at which a pair stops saving."""
    return rank_limit(*shape)
