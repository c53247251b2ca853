"""The decoder view against the model's own forward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.errors import SourceError
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.low_rank.grams import block_statistics, gram
from foldrank.plans.models.block import watch_inputs
from foldrank.plans.models.decoder import Decoder, load_decoder
from foldrank.plans.models.loading import load_model
from foldrank.plans.models.wide import wide
from foldrank.plans.simulate import apply_edits
from foldrank.plans.simulate.fold_blocks import merge

MakeModel = Callable[..., Any]


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_blocks_in_a_row_are_the_model(make_model: MakeModel, ids: np.ndarray, architecture: str) -> None:
    model = make_model(architecture=architecture)
    decoder = Decoder.of(model)
    with torch.no_grad():
        ours = decoder.logits(decoder.forward(ids))
        theirs = model(input_ids=torch.from_numpy(ids), use_cache=False).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "gemma2", "gpt2", "opt"])
def test_real_checkpoints_of_the_known_families(tiny_models: Path, family: str, ids: np.ndarray) -> None:
    checkpoint = Checkpoint.open(tiny_models / family / "checkpoint")
    decoder = load_decoder(checkpoint)
    with torch.no_grad():
        theirs = decoder.model(input_ids=torch.from_numpy(ids), use_cache=False).logits
        torch.testing.assert_close(decoder.logits(decoder.forward(ids)), theirs, rtol=1e-5, atol=1e-5)


def test_blocks_stay_as_stored_and_compute_as_if_they_were_float32(specs_5m: Path, ids: np.ndarray) -> None:
    checkpoint = Checkpoint.open(specs_5m)
    stored, whole = load_decoder(checkpoint), Decoder.of(load_model(checkpoint, dtype=torch.float32))
    assert {t.dtype for block in stored.blocks for t in block.tensors.values()} == {torch.float16}
    assert {p.dtype for p in stored.around} == {torch.float32}
    assert torch.equal(stored.blocks[1].weight("up"), whole.blocks[1].weight("up"))
    hidden = stored.forward(ids)
    assert hidden.dtype == torch.float32
    assert torch.equal(hidden, whole.forward(ids))
    assert torch.equal(stored.logits(hidden), whole.logits(hidden))
    size, held = 4 * sum(t.numel() for block in stored.blocks for t in block.tensors.values()), wide(stored)
    assert {t.dtype for block in held.blocks for t in block.tensors.values()} == {torch.float32}
    assert torch.equal(held.forward(ids), hidden)
    assert wide(stored, size - 1) is stored
    assert wide(held) is held


def test_other_families_are_refused_by_name() -> None:
    reasons = {
        "BloomForCausalLM": "; known are Llama", "MixtralForCausalLM": ": it is a mixture of experts",
        "Qwen3MoeForCausalLM": ": it is a mixture of experts",
    }
    for architecture, reason in reasons.items():
        checkpoint: Any = SimpleNamespace(path="somewhere", architecture=architecture)
        with pytest.raises(SourceError, match=f"{architecture} cannot be planned for{reason}"):
            load_decoder(checkpoint)


def test_weights_are_in_out_and_replacing_them_leaves_the_model_alone(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(architecture="qwen2")
    decoder = Decoder.of(model)
    block = decoder.blocks[1]
    assert [tuple(block.weight(r).shape) for r in ("q", "k", "o", "gate", "down")] == [
        (42, 48), (42, 16), (48, 42), (42, 72), (72, 42)]
    before = model(input_ids=torch.from_numpy(ids)).logits
    doubled = block.with_weights({"down": 2 * block.weight("down")})
    changed = decoder.with_blocks([doubled if b is block else b for b in decoder.blocks])
    hidden = decoder.embed(ids)
    mlp = block.module.mlp
    with torch.no_grad():
        assert not torch.allclose(changed.forward(ids), decoder.forward(ids))
        difference = changed.run(doubled, hidden) - decoder.run(block, hidden)
        middle = decoder.run(block, hidden) - difference
        torch.testing.assert_close(
            difference, mlp(block.module.post_attention_layernorm(middle)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(input_ids=torch.from_numpy(ids)).logits, before, rtol=0, atol=0)


def test_merge_combines_projections_and_biases_and_takes_one_blocks_norms(make_model: MakeModel) -> None:
    decoder = Decoder.of(make_model(architecture="qwen2"))
    coefficients = {1: -1.0, 2: 0.5, 3: 1.5}
    for norms, source in (("bottom", 1), ("top", 3)):
        fold = FoldBlocks(into=2, blocks=(1, 2, 3), coefficients=coefficients, norms=norms)  # type: ignore[arg-type]
        merged = merge(decoder.blocks, fold)
        assert merged.number == 2
        for name in ("self_attn.q_proj.bias", "self_attn.k_proj.weight", "mlp.down_proj.weight"):
            wanted = sum(c * decoder.blocks[b].tensors[name].double() for b, c in coefficients.items())
            torch.testing.assert_close(merged.tensors[name], wanted.float(), rtol=1e-6, atol=1e-6)  # type: ignore[union-attr]
        name = "post_attention_layernorm.weight"
        assert torch.equal(merged.tensors[name], decoder.blocks[source].tensors[name])


def test_folded_decoder_has_the_surviving_blocks_in_order(make_model: MakeModel) -> None:
    decoder = Decoder.of(make_model(6))
    folds = [FoldBlocks(1, (1, 2), {1: 0.0, 2: 1.0}), FoldBlocks(3, (3, 4), {3: 0.0, 4: 1.0})]
    assert [b.number for b in apply_edits(folds, decoder, {}).blocks] == [0, 1, 3, 5]


def test_grams_are_those_of_the_inputs_the_linears_see(make_model: MakeModel, ids: np.ndarray) -> None:
    """Oracle: hooks on the whole model, summed in numpy."""
    model = make_model()
    seen: dict[str, list[np.ndarray]] = {}
    layer = model.model.layers[2]
    modules = {"q": layer.self_attn.q_proj, "o": layer.self_attn.o_proj, "gate": layer.mlp.gate_proj,
               "down": layer.mlp.down_proj}
    handles = [m.register_forward_pre_hook(
        lambda _m, a, role=role: seen.setdefault(role, []).append(a[0].flatten(0, 1).double().numpy()))
        for role, m in modules.items()]
    model(input_ids=torch.from_numpy(ids), use_cache=False)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        states = model(input_ids=torch.from_numpy(ids), output_hidden_states=True).hidden_states
    decoder = Decoder.of(model)  # has run nothing yet: finding its masks must not reach the sums
    statistics, output = block_statistics(decoder, decoder.blocks[2], states[2])
    for role, rows in seen.items():
        x = np.concatenate(rows)
        np.testing.assert_allclose(statistics.inputs[role], x.T @ x, rtol=1e-4, atol=1e-4 * np.abs(x.T @ x).max())
    flat = output.flatten(0, 1).double().numpy()
    np.testing.assert_allclose(gram(output), flat.T @ flat)


def test_watching_leaves_no_hook_behind(make_model: MakeModel) -> None:
    decoder = Decoder.of(make_model())
    block = decoder.blocks[0]
    with pytest.raises(RuntimeError), watch_inputs(block, lambda _r, _x: None, ["q"]):
        raise RuntimeError
    assert not block.linear("q")._forward_pre_hooks
