"""A checkpoint as transformers 4 reads it: version 5 writes rotary settings where version 4 does not look.

Version 4 would take its own defaults in their place, in silence: another base, another share of rotated channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldrank.model.checkpoint import Checkpoint
from foldrank.model.readable import fill, without_attention

_NEW = "rope_parameters"
_OWN_KEYS = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
"""Where a family's version 4 config calls a setting otherwise, by model_type."""


def older_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config with version 4's rotary keys beside version 5's; keys that are there already stay as they are."""
    found = dict(config)
    if isinstance(text := config.get("text_config"), dict):
        found["text_config"] = older_config(text)
    rope = config.get(_NEW)
    if not isinstance(rope, dict):
        return found
    own = _OWN_KEYS.get(str(config.get("model_type")), {})
    for name, value in _older_rope(rope).items():
        found.setdefault(own.get(name, name), value)
    return found


def older_checkpoint(checkpoint: Checkpoint, folder: Path) -> Path:
    """Make `folder` the checkpoint with that config; all other files are links to its own. Returns the folder."""
    folder.mkdir()
    fill(folder, checkpoint, older_config(without_attention(dict(checkpoint.config))))
    return folder


def _older_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """Settings of one kind of attention, or (Gemma 3) of the full and the sliding one."""
    if isinstance(full := rope.get("full_attention"), dict):
        sliding = rope.get("sliding_attention") or {}
        local = {"rope_local_base_freq": sliding["rope_theta"]} if "rope_theta" in sliding else {}
        return _older_rope(full) | local
    plain: dict[str, Any] = {name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if name in rope}
    if rope.get("rope_type", "default") == "default":
        return plain
    return plain | {"rope_scaling": {name: value for name, value in rope.items() if name not in plain}}
