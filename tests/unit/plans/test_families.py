"""Every family of the table on a tiny random checkpoint: its own forward, the planner's simulation, the reference."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.checkpoint import Checkpoint
from foldrank.errors import SourceError
from foldrank.plans.compose import calibration_windows, make_plan, parse_all, run_all
from foldrank.plans.decoder import Decoder, load_decoder
from foldrank.plans.families import FAMILIES
from foldrank.plans.reference import reference_model

ENDS_APART = ["sliding_attention", *["full_attention"] * 3, "sliding_attention"]
SIZES = {
    "hidden_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 72,
    "num_hidden_layers": 5, "vocab_size": 260, "max_position_embeddings": 128, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}
OWN_HEAD = {**SIZES, "hidden_size": 64}
"""For families whose head size is always width / heads."""

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("LlamaConfig", {**SIZES, "tie_word_embeddings": True}),
    "MistralForCausalLM": ("MistralConfig", {**SIZES, "sliding_window": 8}),
    "Qwen2ForCausalLM": ("Qwen2Config", OWN_HEAD),
    "Qwen3ForCausalLM": ("Qwen3Config", SIZES),
    "GemmaForCausalLM": ("GemmaConfig", SIZES),
    "Gemma2ForCausalLM": ("Gemma2Config", {
        **SIZES, "layer_types": ENDS_APART, "sliding_window": 8, "query_pre_attn_scalar": 24,
        "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0}),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", {
        **SIZES, "layer_types": ENDS_APART, "sliding_window": 8, "query_pre_attn_scalar": 24}),
    "GraniteForCausalLM": ("GraniteConfig", {
        **OWN_HEAD, "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.7,
        "attention_multiplier": 0.3}),
    "SmolLM3ForCausalLM": ("SmolLM3Config", {**OWN_HEAD, "no_rope_layers": [0, 1, 1, 1, 0]}),
    "Olmo2ForCausalLM": ("Olmo2Config", OWN_HEAD),
    "Phi3ForCausalLM": ("Phi3Config", OWN_HEAD),
    "GPT2LMHeadModel": ("GPT2Config", {
        "n_embd": 40, "n_head": 4, "n_layer": 5, "n_inner": 72, "n_positions": 128, "vocab_size": 260,
        "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0}),
    "OPTForCausalLM": ("OPTConfig", {
        "hidden_size": 40, "num_attention_heads": 4, "num_hidden_layers": 5, "ffn_dim": 72, "vocab_size": 260,
        "max_position_embeddings": 128, "word_embed_proj_dim": 24, "init_std": 0.2, "pad_token_id": 1,
        "bos_token_id": 0, "eos_token_id": 0}),
}
METHODS = {
    "joint": ["slm:keep=0.8,rule=mean,norms=top,windows=2,tokens=64", "dipsvd:keep=0.4,align=1,ratios=uniform"],
    "split": ["slm:keep=0.8,rule=rdsc,windows=2,tokens=64", "dipsvd:keep=0.4,align=1,ratios=uniform,packed=split"],
}


@pytest.fixture(scope="module")
def made(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """The tiny checkpoint of an architecture; norms and biases are random too."""
    known: dict[str, Checkpoint] = {}

    def make(architecture: str) -> Checkpoint:
        if architecture not in known:
            folder = tmp_path_factory.mktemp(architecture)
            _save(architecture, folder)
            for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
                shutil.copy(shared / "fixtures" / "tiny" / "llama" / "checkpoint" / name, folder / name)
            known[architecture] = Checkpoint.open(folder)
        return known[architecture]

    return make


def _save(architecture: str, folder: Path) -> None:
    import transformers

    name, options = CONFIGS[architecture]
    torch.manual_seed(1)
    model = getattr(transformers, architecture)(getattr(transformers, name)(**options))
    for path, parameter in model.named_parameters():
        if parameter.ndim == 1:
            low = 0.5 if path.endswith("weight") else -0.5
            torch.nn.init.uniform_(parameter, low, low + 1.0)
    model.save_pretrained(folder)


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return float((found - wanted).abs().max() / wanted.abs().max()) < tolerance


def test_the_check_of_these_tests_sees_a_fault_of_one_percent() -> None:
    wanted = torch.linspace(-1, 1, 50)
    assert close(wanted, wanted)
    assert not close(wanted + 0.01, wanted)


def test_every_family_of_the_table_is_tested_here() -> None:
    assert set(CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_blocks_in_a_row_are_the_model(
    made: Callable[[str], Checkpoint], architecture: str, ids: np.ndarray
) -> None:
    decoder = load_decoder(made(architecture))
    with torch.no_grad():
        wanted = decoder.model(input_ids=torch.from_numpy(ids), use_cache=False)
        assert close(decoder.logits(decoder.forward(ids)), wanted.logits)
    assert type(decoder.model).__name__ == architecture
    first = decoder.blocks[0]
    same = first.with_weights({role: first.weight(role).clone() for role in first.roles})
    assert all(torch.equal(same.tensors[name], tensor) for name, tensor in first.tensors.items())


@pytest.mark.parametrize("packed", METHODS)
@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_reference_computes_what_the_planner_simulated_and_its_cache_works(
    made: Callable[[str], Checkpoint], architecture: str, packed: str, ids: np.ndarray
) -> None:
    checkpoint = made(architecture)
    plan = make_plan(checkpoint, METHODS[packed], calibration_tokens=1024)
    assert len(plan.folds) == 1
    assert {role for pair in plan.pairs for role in pair.site.roles} == set(FAMILIES[architecture].roles)
    simulated = run_all(
        load_decoder(checkpoint), parse_all(METHODS[packed]), calibration_windows(checkpoint, None, 1024, 0).ids, 0
    )[-1].result.decoder
    model: Any = reference_model(checkpoint, plan)
    tokens = torch.from_numpy(ids)
    with torch.no_grad():
        wanted = model(input_ids=tokens, use_cache=False).logits
        assert close(simulated.logits(simulated.forward(ids)), wanted)
        assert not close(load_decoder(checkpoint).model(input_ids=tokens).logits, wanted, 0.01)
        assert close(_streamed(model, tokens), wanted)


def _streamed(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of ten tokens at once and the others one by one, with a cache of four blocks."""
    state = model(input_ids=tokens[:, :10], use_cache=True)
    parts = [state.logits]
    for position in range(10, tokens.shape[1]):
        token = tokens[:, position : position + 1]
        state = model(input_ids=token, past_key_values=state.past_key_values, use_cache=True)
        parts.append(state.logits)
    assert len(state.past_key_values.layers) == 4
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_keep_one_plans_nothing(made: Callable[[str], Checkpoint], architecture: str) -> None:
    assert make_plan(made(architecture), ["slm:keep=1", "dipsvd:keep=1"], calibration_tokens=256).edits == ()


@pytest.mark.parametrize("architecture", ["Gemma2ForCausalLM", "Gemma3ForCausalLM", "SmolLM3ForCausalLM"])
def test_blocks_of_different_kinds_do_not_merge(made: Callable[[str], Checkpoint], architecture: str) -> None:
    with pytest.raises(SourceError, match=r"block\.01: is of another kind"):
        make_plan(made(architecture), ["slm:keep=0.8,protect_first=0"], calibration_tokens=256)


@pytest.mark.parametrize(("architecture", "entry"), [
    ("Gemma2ForCausalLM", "layer_types"), ("Gemma3ForCausalLM", "layer_types"),
    ("SmolLM3ForCausalLM", "no_rope_layers"),
])
def test_lists_of_the_config_by_block_follow(
    made: Callable[[str], Checkpoint], architecture: str, entry: str
) -> None:
    checkpoint = made(architecture)
    plan = make_plan(checkpoint, METHODS["joint"][:1], calibration_tokens=256)
    config: Any = reference_model(checkpoint, plan).config
    before = CONFIGS[architecture][1][entry]
    assert getattr(config, entry) == [before[0], before[1], before[1], before[4]]


def test_packed_weights_come_apart_in_storage_order(made: Callable[[str], Checkpoint]) -> None:
    """Oracle: the columns as the modules' own forwards cut them."""
    gpt2 = Decoder.of(load_decoder(made("GPT2LMHeadModel")).model).blocks[2]
    for role, columns in zip("qkv", gpt2.module.attn.c_attn.weight.split(40, dim=1), strict=True):
        assert torch.equal(gpt2.weight(role), columns)
    phi3 = load_decoder(made("Phi3ForCausalLM")).blocks[2]
    for role, rows in zip("qkv", phi3.module.self_attn.qkv_proj.weight.split([64, 32, 32]), strict=True):
        assert torch.equal(phi3.weight(role), rows.T)
    for role, rows in zip(("gate", "up"), phi3.module.mlp.gate_up_proj.weight.chunk(2), strict=True):
        assert torch.equal(phi3.weight(role), rows.T)
