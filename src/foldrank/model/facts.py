"""What a config.json says of a model, under whichever key its family keeps it: the one reader of these.

Knows names of keys. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BLOCKS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Keys under which a config counts its blocks."""

EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_epsilon", "norm_eps")
"""Keys under which a config says what norms add to the variance."""

_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len", "seq_length")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_UNGROUPED = ("gpt2", "opt", "gpt_neox")
_MLP_WIDTH = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
_MLP_KEYS = {"gpt2": "n_inner", "opt": "ffn_dim", "falcon": "ffn_hidden_size"}
_WIDTH = ("hidden_size", "n_embd", "d_model")


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's own part of a multimodal config, else the config."""
    inner = config.get("text_config")
    return dict(inner) if isinstance(inner, Mapping) else dict(config)


def context_length(config: Any) -> int | None:
    """Positions the model looks at; None where no key tells (ALiBi, older Falcons) or what is told is no number > 0."""
    return _first(config, _CONTEXT)


def blocks(config: Any) -> int | None:
    """Decoder blocks. None where no key tells."""
    return _first(config, BLOCKS)


def heads(config: Any) -> int | None:
    """Query heads of a block; None where no key tells."""
    return _first(config, _HEADS)


def kv_heads(config: Any) -> int | None:
    """Heads of keys and values in the cache. Falcon has one, unless its new architecture repeats them for every query
    head; GPT-2, OPT and GPT-NeoX know no key for them. None where no key tells."""
    kind = text_config(config).get("model_type") if isinstance(config, Mapping) else None
    if kind == "falcon":
        text = text_config(config)
        alone = text.get("multi_query", True) and not text.get("new_decoder_architecture")
        return 1 if alone else heads(config)
    own = None if kind in _UNGROUPED else _first(config, ("num_key_value_heads",))
    return own or heads(config)


def head_size(config: Any) -> int | None:
    """Width of a head: where no key tells, the hidden state's shared among the query heads."""
    shared, count = width(config), heads(config)
    return _first(config, ("head_dim",)) or (shared // count if shared and count else None)


def width(config: Any) -> int | None:
    """Width of the hidden state; None where no key tells."""
    return _first(config, _WIDTH)


def mlp_width(config: Any) -> int | None:
    """Channels of an MLP; None where no key tells."""
    return _first(config, _MLP_WIDTH)


def mlp_key(config: Mapping[str, Any]) -> str:
    """The key under which a config keeps that, or its family would: some leave it out or null where it is four times
    the hidden width."""
    held = (key for key in _MLP_WIDTH if key in config)
    return next(held, _MLP_KEYS.get(str(config.get("model_type")), _MLP_WIDTH[0]))


def epsilon(config: Any) -> float | None:
    """What norms add to the variance; None where no key tells."""
    text = text_config(config) if isinstance(config, Mapping) else {}
    found = (text.get(key) for key in EPSILONS)
    return next((float(value) for value in found if isinstance(value, int | float)), None)


def vocabulary(config: Any) -> int | None:
    """Tokens the model has an embedding for: rows of its table. None where no key tells."""
    return _first(config, ("vocab_size",))


def _first(config: Any, keys: tuple[str, ...]) -> int | None:
    if not isinstance(config, Mapping):
        return None
    text = text_config(config)
    found = (text.get(key) for key in keys)
    return next((n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)
