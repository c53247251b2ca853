"""What a checkpoint is, told from its config.json and its tensors' names, before anything asks whether it is sound.

A decoder of one stack of attention blocks is what foldrank works on; everything else is named, with the way out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldrank.errors import SourceError
from foldrank.model.tensorfile import StoredTensor

_SENSES = ("vision_config", "audio_config", "speech_config", "vision_tower", "mm_vision_tower", "thinker_config",
           "speech_encoder_config", "vision_encoder_config")
_RECURRENT_TYPES = frozenset({
    "mamba", "mamba2", "falcon_mamba", "lfm2", "lfm2_moe", "recurrent_gemma", "rwkv", "rwkv5", "rwkv6", "rwkv7",
    "jamba", "zamba", "zamba2", "bamba", "qwen3_next", "qwen3_5", "falcon_h1", "nemotron_h", "granitemoehybrid",
    "xlstm", "minimax", "kimi_linear", "olmo_hybrid", "plamo2", "hymba", "retnet", "griffin", "samba",
})
_RECURRENT_KEYS = ("ssm_cfg", "state_size", "d_state", "mamba_d_state", "mamba_d_conv", "mamba_expand",
                   "ssm_state_size", "hybrid_override_pattern", "layers_block_type", "attn_layer_period",
                   "full_attn_idxs", "lru_width", "linear_num_key_heads", "linear_conv_kernel_dim", "conv_L_cache",
                   "time_mix_extra_dim")
_RECURRENT_BLOCKS = ("conv", "recurrent", "linear_attention", "mamba", "rwkv", "ssm", "hybrid", "gated_delta")
_BLOCK_LISTS = ("layer_types", "block_types", "layers_block_type")
_TWO_STACKS = frozenset({"t5", "mt5", "umt5", "longt5", "bart", "mbart", "pegasus", "marian", "m2m_100", "led",
                         "whisper", "encoder-decoder", "t5gemma", "prophetnet", "blenderbot"})
_ENCODERS = frozenset({"bert", "roberta", "xlm-roberta", "xlm-roberta-xl", "distilbert", "albert", "electra", "deberta",
                       "deberta-v2", "modernbert", "mpnet", "camembert", "nomic_bert", "esm", "eurobert", "longformer"})
_OTHER_HEADS = {
    "ForSequenceClassification": "a classifier", "ForTokenClassification": "a token classifier",
    "ForQuestionAnswering": "an extractive question answerer", "ForMultipleChoice": "a chooser",
    "ForMaskedLM": "encoder-only", "ForImageClassification": "an image model",
}
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_QUANTISED_NAMES = {
    ".qweight": "GPTQ or AWQ", ".qzeros": "GPTQ or AWQ", ".g_idx": "GPTQ", ".SCB": "bitsandbytes int8",
    ".absmax": "bitsandbytes 4 bits", ".weight_scale_inv": "fp8", ".weight_packed": "compressed-tensors",
    ".weight_scale": "compressed-tensors", "_blocks": "mxfp4",
}


@dataclass(frozen=True)
class Kind:
    """`name` for programs; `what` it is and what to do, empty for a decoder that foldrank works on."""

    name: str
    what: str = ""
    remedy: str = ""


DECODER = Kind("decoder")


def identify(config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> Kind:
    """The kind of a checkpoint: the first that fits, `decoder` where none does. `tensors` may be empty."""
    return next(_kinds(config, tensors), DECODER)


def refuse_others(path: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    """Raise SourceError where the checkpoint in `path` is not a dense decoder, saying what it is."""
    kind = identify(config, tensors)
    if kind != DECODER:
        raise SourceError(path, kind.what, kind.remedy)


def experts(config: Mapping[str, Any]) -> int:
    """Experts of a block that mixes them, as the config says at any depth; 0 for a dense model."""
    found = [value for key, value in config.items() if key in _EXPERTS and isinstance(value, int)]
    found += [experts(value) for value in config.values() if isinstance(value, dict)]
    return max(found, default=0)


def _kinds(config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> Iterator[Kind]:
    names = config.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else str(config.get("model_type"))
    inner = config.get("text_config")
    parts = [config, *([inner] if isinstance(inner, dict) else [])]
    types = {str(part.get("model_type", "")).lower() for part in parts}
    if types & _TWO_STACKS or any(part.get("is_encoder_decoder") is True for part in parts):
        yield Kind("encoder-decoder", f"is an encoder-decoder model ({architecture})", "give a decoder-only model")
    if sense := next((key for key in _SENSES if isinstance(config.get(key), dict | str)), None):
        yield _multimodal(architecture, sense)
    if architecture.endswith("ForConditionalGeneration"):
        yield _multimodal(architecture, "its architecture")
    if how := next((how for part in parts if (how := _recurrence(part))), None):
        yield Kind("recurrent", f"is a recurrent or hybrid model ({architecture}: {how}), not attention in every block",
                   "give a model with attention in every block")
    if quantised := _quantised(parts, tensors):
        yield Kind("quantised", f"the weights are quantised ({quantised})", "give the checkpoint from before that")
    if types & _ENCODERS and not architecture.endswith(("ForCausalLM", "LMHeadModel")):
        yield Kind("encoder-only", f"is an encoder-only model ({architecture})", "give a decoder language model")
    if head := next((what for suffix, what in _OTHER_HEADS.items() if architecture.endswith(suffix)), None):
        yield Kind("other-head", f"is {head} ({architecture}), not a language model that generates",
                   "give the checkpoint of a ...ForCausalLM")
    if count := experts(config):
        yield Kind("experts", f"{architecture} is a mixture of {count} experts",
                   "give a dense model: mixtures are not supported in this version")


def _multimodal(architecture: str, sense: str) -> Kind:
    return Kind("multimodal", f"is a multimodal checkpoint ({architecture}, {sense})",
                "give the text decoder alone: load it, and save its language model as a ...ForCausalLM")


def _recurrence(part: Mapping[str, Any]) -> str | None:
    """What makes a config recurrent: its model_type, a block of its lists, or a key that only such models have."""
    if (kind := str(part.get("model_type", "")).lower()) in _RECURRENT_TYPES:
        return f"model_type {kind}"
    for key in _BLOCK_LISTS:
        blocks = part.get(key)
        for block in blocks if isinstance(blocks, list) else ():
            if isinstance(block, str) and block.lower().startswith(_RECURRENT_BLOCKS):
                return f"{key} names {block}"
    return next((f"it has {key}" for key in _RECURRENT_KEYS if part.get(key) is not None), None)


def _quantised(parts: list[Mapping[str, Any]], tensors: Mapping[str, StoredTensor]) -> str | None:
    """How: as config.json says, else as names and dtypes tell where it is silent."""
    for part in parts:
        for key in ("quantization_config", "compression_config"):
            if said := part.get(key):
                return str(said.get("quant_method") or said.get("format") if isinstance(said, dict) else said)
    for name, tensor in tensors.items():
        if how := next((how for suffix, how in _QUANTISED_NAMES.items() if name.endswith(suffix)), None):
            return f"{how}: it holds {name}"
        if len(tensor.shape) == 2 and name.endswith(".weight"):
            if tensor.dtype.kind in "iu":
                return f"{name} is stored as {tensor.dtype.name}"
            if tensor.dtype.name.startswith("float8"):
                return f"fp8: {name} is stored as {tensor.dtype.name}"
    return None
