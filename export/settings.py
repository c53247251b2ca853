"""genai_config.json for a graph of standard operators, whose cache grows with every token.

Observed with onnxruntime-genai 0.18: it feeds position_ids where they are named, and leaves the mask out where the
graph has none.
"""

from __future__ import annotations

from typing import Any

from foldrank.export.ports import Ports, sizes
from foldrank.model.checkpoint import Checkpoint
from foldrank.model.facts import context_length

_TYPES = frozenset({"gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo", "phi", "phi3", "qwen2",
                    "qwen3", "smollm3"})
"""Model types whose cache onnxruntime-genai takes pair by pair; its `gpt2` is another layout (one tensor a block)."""


def genai_settings(checkpoint: Checkpoint, ports: Ports, *, shared_cache: bool = False) -> dict[str, Any]:
    """The file's content; finish.py names the provider and the special tokens."""
    text = checkpoint.text_config
    heads, head_size = sizes(checkpoint)
    context = context_length(text) or 2048
    kind = str(text.get("model_type", ""))
    return {
        "model": {
            "context_length": context,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": "model.onnx",
                "head_size": head_size,
                "hidden_size": int(text.get("hidden_size") or text["n_embd"]),
                "inputs": {
                    **{name: name for name in ports.inputs},
                    "past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key", "present_value_names": "present.%d.value",
                },
                "num_attention_heads": heads,
                "num_hidden_layers": ports.pairs,
                "num_key_value_heads": ports.kv_heads,
            },
            "type": kind if kind in _TYPES else "decoder",
            "vocab_size": int(text["vocab_size"]),
        },
        "search": {"do_sample": False, "max_length": context, "num_beams": 1,
                   "past_present_share_buffer": shared_cache},
    }
