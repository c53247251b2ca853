"""Tiny GGUF files, written by the `gguf` package as llama.cpp's converters write them: of two blocks, of every
architecture that foldrank reads.

Knows what those converters do to a tensor. Knows nothing of foldrank.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_BASE = {
    "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96,
    "num_hidden_layers": 2, "vocab_size": 258, "max_position_embeddings": 96, "initializer_range": 0.2,
    "rms_norm_eps": 2e-5, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}
_GEMMA = {**_BASE, "head_dim": 256, "sliding_window": 8, "query_pre_attn_scalar": 256}


@dataclass(frozen=True)
class Tiny:
    """A class of transformers, its config, and llama.cpp's name of the architecture."""

    architecture: str
    config: str
    options: dict[str, Any] = field(hash=False)
    gguf: str
    also: dict[str, float | int] = field(default_factory=dict, hash=False)

    def model(self) -> Any:
        """The model, random, in fp32; norms too."""
        import torch
        import transformers

        torch.manual_seed(0)
        made = getattr(transformers, self.architecture)(getattr(transformers, self.config)(**self.options)).eval()
        with torch.no_grad():
            for name, weight in made.named_parameters():
                if "norm" in name or "ln_" in name or name.endswith("bias"):
                    weight.add_(0.2 * torch.randn_like(weight))
        return made


TINY = {
    "llama": Tiny("LlamaForCausalLM", "LlamaConfig", {
        **_BASE, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "tie_word_embeddings": False},
        "llama", {"rope.dimension_count": 16, "rope.freq_base": 500.0}),
    "llama3": Tiny("LlamaForCausalLM", "LlamaConfig", {
        **_BASE, "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}},
        "llama", {"rope.dimension_count": 16, "rope.freq_base": 5000.0}),
    "qwen2": Tiny("Qwen2ForCausalLM", "Qwen2Config", {
        **_BASE, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "tie_word_embeddings": True},
        "qwen2", {"rope.freq_base": 500.0}),
    "qwen3": Tiny("Qwen3ForCausalLM", "Qwen3Config", {**_BASE, "head_dim": 128, "tie_word_embeddings": True},
                  "qwen3", {"rope.freq_base": 10000.0, "attention.key_length": 128, "attention.value_length": 128}),
    "gemma2": Tiny("Gemma2ForCausalLM", "Gemma2Config", _GEMMA, "gemma2", {
        "attention.key_length": 256, "attention.value_length": 256, "attention.sliding_window": 8,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
    "gemma3": Tiny("Gemma3ForCausalLM", "Gemma3TextConfig", _GEMMA, "gemma3", {
        "attention.key_length": 256, "attention.value_length": 256, "attention.sliding_window": 8,
        "rope.freq_base": 1000000.0}),
    "gpt2": Tiny("GPT2LMHeadModel", "GPT2Config", {
        "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 1024, "vocab_size": 258, "initializer_range": 0.2,
        "layer_norm_epsilon": 2e-5, "bos_token_id": 0, "eos_token_id": 0}, "gpt2"),
}


def write(tiny: Tiny, path: Path, *, bits: str = "F32", **changed: float | int | str | None) -> Any:
    """Write the file; gives the model that it is of. `bits`: the type of the matrices. `changed`: keys of the
    architecture to set to something else, or with None to leave out, their dots as `__`."""
    import gguf
    from gguf.quants import quantize

    model, names = tiny.model(), gguf.MODEL_ARCH_NAMES
    arch = next(key for key, name in names.items() if name == tiny.gguf)
    where = gguf.get_tensor_name_map(arch, 2)
    writer = gguf.GGUFWriter(path, tiny.gguf)
    for key, value in (_settings(tiny) | {key.replace("__", "."): value for key, value in changed.items()}).items():
        add = {float: writer.add_float32, int: writer.add_uint32, str: writer.add_string}.get(type(value))
        if add is not None:
            add(f"{tiny.gguf}.{key}", value)
    _write_tokenizer(writer)
    if (positions := tiny.options.get("rope_parameters", {})).get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", _rope_freqs(positions, 16))
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = _as_llama_cpp(tiny, name, tensor.numpy())
        kind = gguf.GGMLQuantizationType[bits if values.ndim > 1 else "F32"]
        writer.add_tensor(where.get_name(name, (".weight", ".bias")), quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _settings(tiny: Tiny) -> dict[str, Any]:
    options = tiny.options
    if tiny.gguf == "gpt2":
        return {"context_length": 1024, "block_count": 2, "embedding_length": 64, "feed_forward_length": 256,
                "attention.head_count": 4, "attention.layer_norm_epsilon": options["layer_norm_epsilon"]}
    return {
        "context_length": options["max_position_embeddings"], "block_count": 2, "embedding_length": 64,
        "feed_forward_length": options["intermediate_size"], "attention.head_count": 4, "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": options["rms_norm_eps"], **tiny.also,
    }


def _as_llama_cpp(tiny: Tiny, name: str, values: np.ndarray) -> np.ndarray:
    """A tensor as the converter stores it: Llama's rotary pairs lie together, Gemma's norms hold one more, GPT-2's
    matrices are turned."""
    if tiny.gguf == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = 4 if "q_proj" in name else 2
        return values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
    if tiny.gguf.startswith("gemma") and name.endswith("norm.weight"):
        return values + np.float32(1)
    if tiny.gguf == "gpt2" and ".c_" in name and values.ndim == 2:
        return np.ascontiguousarray(values.T)
    return values


def _rope_freqs(positions: dict[str, Any], head: int) -> np.ndarray:
    """As convert_hf_to_gguf.py makes them, one after the other."""
    context, factor = positions["original_max_position_embeddings"], positions["factor"]
    low, high = positions["low_freq_factor"], positions["high_freq_factor"]
    found = []
    for axis in range(0, head, 2):
        wave = 2 * np.pi * positions["rope_theta"] ** (axis / head)
        if wave < context / high:
            found.append(1.0)
        elif wave > context / low:
            found.append(factor)
        else:
            smooth = (context / wave - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, dtype=np.float32)


def _write_tokenizer(writer: Any) -> None:
    """GPT-2's form: end of text, the 256 bytes, one merge."""
    from tokenizers import pre_tokenizers

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"])
    writer.add_token_types([3, *[1] * 257])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
