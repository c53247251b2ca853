"""Bring the JSON files beside a graph along when blocks leave: block counts, and lists with one entry per block."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from foldrank.model.facts import BLOCKS

_PER_BLOCK = re.compile(r"layer|block|attention_types|no_rope")
"""Names of lists that may hold one entry per block; others of that length (token ids) mean something else."""


def shrink_config(config: dict[str, Any], blocks: int, stay: Sequence[int]) -> dict[str, Any]:
    """config.json of a model of `blocks` blocks of which the positions `stay` remain; nested text configs too."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if key in BLOCKS and value == blocks:
            result[key] = len(stay)
        elif isinstance(value, list) and len(value) == blocks and _PER_BLOCK.search(key):
            result[key] = [value[i] for i in stay]
        elif isinstance(value, dict) and any(count in value for count in BLOCKS):
            result[key] = shrink_config(value, blocks, stay)
        else:
            result[key] = value
    return result


def shrink_genai_config(config: dict[str, Any], stay: Sequence[int], head_size: int) -> dict[str, Any]:
    """genai_config.json likewise; its sliding-window entry names blocks by position."""
    result = copy.deepcopy(config)
    decoder = result["model"]["decoder"]
    decoder["num_hidden_layers"] = len(stay)
    decoder["head_size"] = head_size
    window = decoder.get("sliding_window")
    if isinstance(window, dict) and isinstance(window.get("layers"), list):
        window["layers"] = [new for new, old in enumerate(stay) if old in window["layers"]]
    return result
