"""Bring the JSON files beside a graph along: block counts, lists with one entry per block, the width of MLPs.

Both read what the graph is made of before and after; config.json counts blocks, genai_config.json KV pairs.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

from foldrank.edits.anatomy import Anatomy, BlockAnatomy
from foldrank.model.facts import BLOCKS, mlp_key

_PER_BLOCK = re.compile(r"layer|block|attention_types|no_rope")
"""Names of lists that may hold one entry per block; others of that length (token ids) mean something else."""


def shrink_config(config: dict[str, Any], before: Anatomy, after: Anatomy) -> dict[str, Any]:
    """config.json of what is left; nested text configs too. A width of MLPs is written where all blocks have one."""
    blocks, stay = len(before.blocks), _places(before, after.blocks)
    result: dict[str, Any] = {}
    for key, value in config.items():
        if key in BLOCKS and value == blocks:
            result[key] = len(stay)
        elif isinstance(value, list) and len(value) == blocks and _PER_BLOCK.search(key):
            result[key] = [value[i] for i in stay]
        elif isinstance(value, dict) and any(count in value for count in BLOCKS):
            result[key] = shrink_config(value, before, after)
        else:
            result[key] = value
    if after.mlp_width not in (None, before.mlp_width) and any(count in config for count in BLOCKS):
        result[mlp_key(config)] = after.mlp_width
    return result


def shrink_genai_config(config: dict[str, Any], before: Anatomy, after: Anatomy) -> dict[str, Any]:
    """genai_config.json likewise; its sliding-window entry names KV pairs by their place."""
    stay = _places(before, (block for block in after.blocks if block.has_cache))
    result = copy.deepcopy(config)
    decoder = result["model"]["decoder"]
    decoder["num_hidden_layers"] = len(stay)
    decoder["head_size"] = before.head_size
    window = decoder.get("sliding_window")
    if isinstance(window, dict) and isinstance(window.get("layers"), list):
        window["layers"] = [new for new, old in enumerate(stay) if old in window["layers"]]
    return result


def _places(before: Anatomy, blocks: Iterable[BlockAnatomy]) -> list[int]:
    """Positions before of the blocks in whose places these stand."""
    return [before.numbers.index(block.stands_at) for block in blocks]
