"""LoRA adapters as PEFT writes them: beside a model they are what merging them would make; what is no plain LoRA is
refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tiny_families import TINY, random_model, save
from transformers.pytorch_utils import Conv1D

import foldrank
from foldrank.edits.add_low_rank import AddLowRank
from foldrank.errors import SourceError
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.plans.bits.again import rounded_again
from foldrank.plans.method import Result, Task
from foldrank.plans.methods import adapter
from foldrank.plans.models.decoder import Decoder, load_decoder
from foldrank.plans.reference import reference_model

PLAIN: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "some/base", "r": 4, "lora_alpha": 16,
    "lora_dropout": 0.05, "target_modules": ["q_proj"], "bias": "none", "use_rslora": False, "use_dora": False,
    "fan_in_fan_out": False, "init_lora_weights": True, "modules_to_save": None, "rank_pattern": {},
    "alpha_pattern": {}, "layer_replication": None, "inference_mode": True, "megatron_core": "megatron.core",
    "loftq_config": {}, "qalora_group_size": 16, "peft_version": "0.21.2",
}
Tensors = dict[str, np.ndarray]


def written(folder: Path, tensors: Tensors, **said: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**PLAIN, **said}))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def pairs(model: torch.nn.Module, modules: list[str], rank: int = 4, seed: int = 0) -> Tensors:
    """Random halves as PEFT names and turns them: A [rank, in], B [out, rank]."""
    random, found = np.random.default_rng(seed), {}
    for name in modules:
        module: Any = model.get_submodule(name)
        n_in, n_out = module.weight.shape if isinstance(module, Conv1D) else module.weight.shape[::-1]
        for half, shape in (("A", (rank, n_in)), ("B", (n_out, rank))):
            found[f"base_model.model.{name}.lora_{half}.weight"] = (
                random.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
    return found


def merged(model: Any, tensors: Tensors, scale: float) -> Any:
    """The model with the products in its weights."""
    whole = copy.deepcopy(model)
    for name in {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in tensors}:
        a, b = (tensors[f"base_model.model.{name}.lora_{half}.weight"].astype(np.float64) for half in "AB")
        module, delta = whole.get_submodule(name), torch.from_numpy(scale * (b @ a))
        module.weight.data += (delta.T if isinstance(module, Conv1D) else delta).float()
    return whole


def beside(decoder: Decoder, folder: Path) -> Result:
    return adapter.run(Task(decoder, np.zeros((1, 8), np.int64), 0, source=decoder), adapter.Settings(str(folder)))


LLAMA = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj", "model.layers.1.mlp.down_proj"]


@pytest.mark.parametrize(("family", "modules"), [
    ("llama", LLAMA), ("phi3", ["model.layers.0.self_attn.qkv_proj", "model.layers.1.mlp.gate_up_proj"]),
    ("gpt2", ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj"]),
    ("gptneox", ["gpt_neox.layers.1.attention.query_key_value", "gpt_neox.layers.0.mlp.dense_h_to_4h"]),
])
def test_it_computes_what_the_merged_model_does(
    family: str, modules: list[str], ids: np.ndarray, tmp_path: Path
) -> None:
    model = random_model(TINY[family], seed=0)
    tensors = pairs(model, modules)
    decoder = Decoder.of(model)
    found = beside(decoder, written(tmp_path / "adapter", tensors))
    assert [edit.kind for edit in found.edits] == ["add_low_rank"] * len(modules)
    with torch.no_grad():
        wanted = merged(model, tensors, 16 / 4)(input_ids=torch.from_numpy(ids)).logits
        torch.testing.assert_close(found.decoder.logits(found.decoder.forward(ids)), wanted, rtol=0, atol=2e-5)
        assert (decoder.logits(decoder.forward(ids)) - wanted).abs().max() > 1e-2


@pytest.mark.parametrize(("said", "scale"), [
    ({"use_rslora": True}, 8.0), ({"alpha_pattern": {"layers.0.self_attn.q_proj": 2}}, 0.5),
])
def test_it_scales_as_the_config_says(said: dict[str, Any], scale: float, tmp_path: Path) -> None:
    model = random_model(TINY["llama"], seed=0)
    tensors = pairs(model, LLAMA[:1])
    found = beside(Decoder.of(model), written(tmp_path / "adapter", tensors, **said))
    a, b = (found.arrays[name] for name in found.edits[0].arrays())
    np.testing.assert_allclose(a, scale * tensors[f"base_model.model.{LLAMA[0]}.lora_A.weight"].T, rtol=1e-6)
    np.testing.assert_array_equal(b, tensors[f"base_model.model.{LLAMA[0]}.lora_B.weight"].T)


def test_a_rank_above_full_is_the_same_product_at_full_rank(tmp_path: Path) -> None:
    model = random_model(TINY["llama"], seed=0)
    tensors = pairs(model, LLAMA[1:2], rank=200)
    found = beside(Decoder.of(model), written(tmp_path / "adapter", tensors, lora_alpha=200))
    a, b = (found.arrays[name] for name in found.edits[0].arrays())
    assert isinstance(found.edits[0], AddLowRank)
    assert found.edits[0].rank == min(found.edits[0].shape)
    one, other = (tensors[f"base_model.model.{LLAMA[1]}.lora_{half}.weight"] for half in "AB")
    np.testing.assert_allclose(a @ b, one.T @ other.T, rtol=0, atol=1e-4)


def test_a_plan_of_it_beside_few_bits_is_read_and_proved_like_any_other(tmp_path: Path) -> None:
    folder = save(TINY["llama"], tmp_path / "llama")
    checkpoint = Checkpoint.open(folder)
    tensors = pairs(random_model(TINY["llama"], seed=0), LLAMA)
    lora = written(tmp_path / "adapter", tensors)
    methods = ["quantize:block_size=16,head_bits=none,embedding_bits=none", f"adapter:path={lora}"]
    plan = foldrank.plan(folder, methods=methods, calibration_tokens=64)
    plan.write(tmp_path)
    again = Plan.read(tmp_path)
    assert again.edits == plan.edits
    assert [edit.kind for edit in again.edits][-3:] == ["add_low_rank"] * 3
    bare = reference_model(checkpoint, foldrank.plan(folder, methods=methods[:1], calibration_tokens=64))
    ids = torch.arange(16)[None]
    with torch.no_grad():
        torch.testing.assert_close(reference_model(checkpoint, again)(input_ids=ids).logits,
                                   merged(bare, tensors, 4.0)(input_ids=ids).logits, rtol=0, atol=2e-5)
    kept = rounded_again(load_decoder(checkpoint), plan, np.arange(64).reshape(1, 64))
    assert [edit for edit in kept.edits if isinstance(edit, AddLowRank)] == list(plan.of(AddLowRank))


@pytest.mark.parametrize(("said", "what"), [
    ({"use_dora": True}, "use_dora is true"), ({"peft_type": "LOHA"}, "peft_type is LOHA"),
    ({"bias": "lora_only"}, "bias is lora_only"), ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights is pissa, which changes the base"),
    ({"layer_replication": [[0, 2]]}, "layer_replication is"), ({"some_new_thing": 1}, "some_new_thing is 1"),
    ({"alpha_pattern": {"(a+)+$": 2}}, "alpha_pattern has"), ({"lora_alpha": "16"}, "lora_alpha is '16'"),
])
def test_what_is_not_plain_lora_is_refused(said: dict[str, Any], what: str, tmp_path: Path) -> None:
    model = random_model(TINY["llama"], seed=0)
    with pytest.raises(SourceError, match=what.replace("(", r"\(")):
        beside(Decoder.of(model), written(tmp_path / "adapter", pairs(model, LLAMA[:1]), **said))


def test_what_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    model = random_model(TINY["llama"], seed=0)
    decoder, good = Decoder.of(model), pairs(model, LLAMA[:1])
    half = f"base_model.model.{LLAMA[0]}.lora_"

    def refuses(tensors: Tensors, what: str) -> None:
        with pytest.raises(SourceError, match=what):
            beside(decoder, written(tmp_path / "adapter", tensors))

    renamed = {name.replace("layers.0", "layers.77"): tensor for name, tensor in good.items()}
    refuses(renamed, r"changes model\.layers\.77\.self_attn\.q_proj, which is not there")
    refuses(pairs(model, ["lm_head"]), "changes lm_head, which is no linear map of a block")
    refuses({"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((4, 9), np.float32)}, "is no matrix of a")
    refuses({f"{half}A.weight": good[f"{half}A.weight"]}, "has no pair that fits")
    refuses({**good, f"{half}A.weight": np.ones((4, 7), np.float32)}, r"is of \[7, ")
    refuses({**good, f"{half}A.weight": np.full_like(good[f"{half}A.weight"], np.nan)}, "holds NaN or infinity")
    with pytest.raises(SourceError, match="no such file"):
        beside(decoder, tmp_path / "nowhere")
