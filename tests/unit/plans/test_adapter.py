"""LoRA adapters as PEFT writes them: beside a model they are what merging them would make; what is no plain LoRA is
refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lora import LLAMA, Tensors, merged, pairs, written
from tiny_families import TINY, random_model, save

import foldrank
from foldrank.edits.add_low_rank import AddLowRank
from foldrank.errors import SourceError
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.plans.bits.again import rounded_again
from foldrank.plans.compose import parse_all, run_all
from foldrank.plans.method import Result, Task
from foldrank.plans.methods import adapter
from foldrank.plans.models.decoder import Decoder, load_decoder
from foldrank.plans.reference import reference_model
from foldrank.tolerances import GRAPH_PROOF_FP32


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest error over the largest number."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def beside(decoder: Decoder, folder: Path | str, ids: np.ndarray | None = None, **settings: Any) -> Result:
    task = Task(decoder, np.zeros((1, 8), np.int64) if ids is None else ids, 0, source=decoder)
    return adapter.run(task, adapter.Settings(str(folder), **settings))


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
        assert off(found.decoder.logits(found.decoder.forward(ids)), wanted) < GRAPH_PROOF_FP32
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


def two_adapters(model: torch.nn.Module, folder: Path) -> tuple[str, Tensors, Tensors]:
    """The folders as `path` has them, and their tensors: of two ranks, on one site both."""
    one, two = pairs(model, LLAMA[:2], seed=1), pairs(model, LLAMA[1:], rank=3, seed=2)
    return f"{written(folder / 'one', one)}+{written(folder / 'two', two)}", one, two


def test_several_compute_what_the_model_with_all_of_them_merged_does(ids: np.ndarray, tmp_path: Path) -> None:
    model = random_model(TINY["llama"], seed=0)
    path, one, two = two_adapters(model, tmp_path)
    found = beside(Decoder.of(model), path, weights="1+-0.5")
    assert {str(edit.site): edit.rank for edit in found.edits if isinstance(edit, AddLowRank)} == {
        "block.00.q": 4, "block.01.v": 7, "block.01.down": 3}
    with torch.no_grad():
        wanted = merged(merged(model, one, 16 / 4), two, -0.5 * 16 / 3)(input_ids=torch.from_numpy(ids)).logits
        assert off(found.decoder.logits(found.decoder.forward(ids)), wanted) < GRAPH_PROOF_FP32


def test_of_a_rank_it_errs_least_on_what_the_model_with_all_of_them_gives(ids: np.ndarray, tmp_path: Path) -> None:
    model = random_model(TINY["llama"], seed=0)
    path, one, two = two_adapters(model, tmp_path)
    whole, name, seen = merged(merged(model, one, 4.0), two, 16 / 3), LLAMA[1], []
    whole.get_submodule(name).register_forward_pre_hook(lambda _module, x: seen.append(x[0].double().flatten(0, 1)))
    with torch.no_grad():
        whole(input_ids=torch.from_numpy(ids))
    halves = [(f"base_model.model.{name}.lora_{half}.weight" for half in "BA") for _ in "12"]
    (b, a), (b2, a2) = ([tensors[key].astype(np.float64) for key in keys]
                        for tensors, keys in zip((one, two), halves, strict=True))
    wanted = 4.0 * (b @ a).T + 16 / 3 * (b2 @ a2).T
    left = {}
    for way in ("gram", "lego"):
        found = beside(Decoder.of(model), path, ids, rank=3, reduce=way)
        assert {edit.rank for edit in found.edits if isinstance(edit, AddLowRank)} == {3}
        made = (found.arrays[f"block.01.v.adapter.{half}"].astype(np.float64) for half in "AB")
        left[way] = np.linalg.norm(seen[0].numpy() @ (np.matmul(*made) - wanted))
    spectrum = np.linalg.svd(seen[0].numpy() @ wanted, compute_uv=False)
    assert left["gram"] == pytest.approx(np.linalg.norm(spectrum[3:]), rel=1e-4)
    assert left["lego"] > 1.05 * left["gram"]


@pytest.mark.parametrize(("settings", "what"), [
    ({"weights": "1+0.5"}, "are 2, adapters are 1"), ({"weights": "1+x"}, "are not numbers"),
    ({"weights": "nan"}, "are not numbers"), ({"rank": 0}, "greater than or equal"),
])
def test_settings_that_fit_no_adapters_are_wrong_use(settings: dict[str, Any], what: str, tmp_path: Path) -> None:
    model = random_model(TINY["llama"], seed=0)
    with pytest.raises(ValueError, match=what):
        beside(Decoder.of(model), written(tmp_path / "a+b", pairs(model, LLAMA[:1])), **settings)


@pytest.mark.parametrize(("before", "family"), [("rotate", "llama"), ("pre_rmsnorm", "gpt2")])
def test_a_stream_that_it_was_not_made_for_is_refused(before: str, family: str, tmp_path: Path) -> None:
    model = random_model(TINY[family], seed=0)
    name = LLAMA[0] if family == "llama" else "transformer.h.0.attn.c_attn"
    lora = written(tmp_path / "adapter", pairs(model, [name]))
    with pytest.raises(SourceError, match="neither rotated nor without its mean"):
        run_all(Decoder.of(model), parse_all([before, f"adapter:path={lora}"]), np.zeros((1, 8), np.int64), 0)


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
        assert off(reference_model(checkpoint, again)(input_ids=ids).logits,
                   merged(bare, tensors, 4.0)(input_ids=ids).logits) < GRAPH_PROOF_FP32
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
