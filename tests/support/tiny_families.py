"""Tiny random checkpoints of every family, made on the fly: six blocks, heads of 16, nothing trivially 0 or 1.

Knows configs of transformers. Knows nothing of foldrank but its byte tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foldrank.benchmarks.random_checkpoint import write_tokenizer

ENDS_APART = ["sliding_attention", *["full_attention"] * 4, "sliding_attention"]
SIZES = {
    "hidden_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 72,
    "num_hidden_layers": 6, "vocab_size": 260, "max_position_embeddings": 128, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}
OWN_HEAD = {**SIZES, "hidden_size": 64}
"""For families whose head size is always width / heads."""
_FALCON = {
    "hidden_size": 64, "num_attention_heads": 4, "ffn_hidden_size": 72, "num_hidden_layers": 6, "vocab_size": 260,
    "max_position_embeddings": 128, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}


@dataclass(frozen=True)
class Tiny:
    """A config and the class that its checkpoint is of."""

    architecture: str
    config: str
    options: dict[str, Any] = field(hash=False)

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        import transformers

        return bool(getattr(transformers, self.config)(**self.options).tie_word_embeddings)


def llama(**sizes: Any) -> Tiny:
    """A Llama of these sizes."""
    return Tiny("LlamaForCausalLM", "LlamaConfig", sizes)


TINY: dict[str, Tiny] = {
    "llama": llama(**SIZES, tie_word_embeddings=True),
    "llama-untied": llama(**{**SIZES, "num_key_value_heads": 1}, attention_bias=True, mlp_bias=True),
    "mistral": Tiny("MistralForCausalLM", "MistralConfig", {**SIZES, "sliding_window": 8}),
    "qwen2": Tiny("Qwen2ForCausalLM", "Qwen2Config", OWN_HEAD),
    "qwen3": Tiny("Qwen3ForCausalLM", "Qwen3Config", SIZES),
    "gemma": Tiny("GemmaForCausalLM", "GemmaConfig", SIZES),
    "gemma2": Tiny("Gemma2ForCausalLM", "Gemma2Config", {
        **SIZES, "layer_types": ENDS_APART, "sliding_window": 8, "query_pre_attn_scalar": 24,
        "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0}),
    "gemma3": Tiny("Gemma3ForCausalLM", "Gemma3TextConfig", {
        **SIZES, "layer_types": ENDS_APART, "sliding_window": 8, "query_pre_attn_scalar": 24}),
    "granite": Tiny("GraniteForCausalLM", "GraniteConfig", {
        **OWN_HEAD, "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.7,
        "attention_multiplier": 0.3}),
    "smollm3": Tiny("SmolLM3ForCausalLM", "SmolLM3Config", {**OWN_HEAD, "no_rope_layers": [0, 1, 1, 1, 1, 0]}),
    "olmo2": Tiny("Olmo2ForCausalLM", "Olmo2Config", OWN_HEAD),
    "phi3": Tiny("Phi3ForCausalLM", "Phi3Config", {**OWN_HEAD, "original_max_position_embeddings": 128}),
    "gpt2": Tiny("GPT2LMHeadModel", "GPT2Config", {
        "n_embd": 64, "n_head": 4, "n_layer": 6, "n_inner": 72, "n_positions": 128, "vocab_size": 260,
        "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0}),
    "opt": Tiny("OPTForCausalLM", "OPTConfig", {
        "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 6, "ffn_dim": 72, "vocab_size": 260,
        "max_position_embeddings": 128, "word_embed_proj_dim": 24, "init_std": 0.2, "pad_token_id": 1,
        "bos_token_id": 0, "eos_token_id": 0}),
    "gptneox": Tiny("GPTNeoXForCausalLM", "GPTNeoXConfig", {**OWN_HEAD, "rotary_pct": 0.5}),
    "gptneox-serial": Tiny("GPTNeoXForCausalLM", "GPTNeoXConfig", {
        **OWN_HEAD, "rotary_pct": 1.0, "use_parallel_residual": False, "tie_word_embeddings": True}),
    "falcon": Tiny("FalconForCausalLM", "FalconConfig", {
        **_FALCON, "multi_query": True, "parallel_attn": True, "new_decoder_architecture": False}),
    "falcon-grouped": Tiny("FalconForCausalLM", "FalconConfig", {
        **_FALCON, "num_kv_heads": 2, "new_decoder_architecture": True, "tie_word_embeddings": False}),
    "falcon-alibi": Tiny("FalconForCausalLM", "FalconConfig", {
        **_FALCON, "alibi": True, "bias": True, "multi_query": False, "parallel_attn": False,
        "new_decoder_architecture": False}),
}
"""By a short name: a family, or one of its variants behind a hyphen."""

EXPERTS: dict[str, Tiny] = {
    "mixtral": Tiny("MixtralForCausalLM", "MixtralConfig", {
        **OWN_HEAD, "num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 2}),
    "qwen3_moe": Tiny("Qwen3MoeForCausalLM", "Qwen3MoeConfig", {
        **OWN_HEAD, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_hidden_layers": 2}),
}
"""Mixtures of experts, which are refused by name."""


def random_model(tiny: Tiny, *, seed: int = 1) -> Any:
    """The model in float32, norms and biases random too, for inference."""
    import torch
    import transformers

    torch.manual_seed(seed)
    model = getattr(transformers, tiny.architecture)(getattr(transformers, tiny.config)(**tiny.options))
    for path, parameter in model.named_parameters():
        if parameter.ndim == 1:
            low = 0.5 if path.endswith("weight") else -0.5
            torch.nn.init.uniform_(parameter, low, low + 1.0)
    return model.requires_grad_(False).eval()


def save(tiny: Tiny, folder: Path, *, seed: int = 1) -> Path:
    """Write the random model as a checkpoint, with a byte tokenizer beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    random_model(tiny, seed=seed).save_pretrained(folder)
    write_tokenizer(folder)
    return folder
