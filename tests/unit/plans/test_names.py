"""Every tensor of a checkpoint is the model's, by name and shape, or the checkpoint is refused and the reason said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_families
from safetensors.numpy import load_file, save_file

from foldrank.errors import SourceError
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.models.loading import load_model
from foldrank.plans.models.names import prove_names

Weights = dict[str, np.ndarray]


@pytest.fixture
def tiny(tiny_models: Path, tmp_path: Path) -> Path:
    """A copy of the tiny untied Llama that a test may spoil."""
    source = tiny_models / "llama" / "checkpoint"
    return Path(shutil.copytree(source, tmp_path / "tiny", copy_function=shutil.copyfile))


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def configure(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("worn", ["_orig_mod.", "module.", "base_model.model.", "somebody.wrapper."])
def test_a_prefix_is_refused_by_its_name(tiny: Path, worn: str) -> None:
    rewrite(tiny, lambda w: {worn + name: value for name, value in w.items()})
    with pytest.raises(SourceError, match=f"hold '{worn}'.*random numbers"):
        load_model(Checkpoint.open(tiny), dtype=None)


def test_a_part_of_a_multimodal_model_names_what_is_between(tiny: Path) -> None:
    rewrite(tiny, lambda w: {n.replace("model.", "model.language_model.", 1): v for n, v in w.items()})
    with pytest.raises(SourceError, match=r"'model\.language_model\.' where the model's have model\."):
        prove_names(Checkpoint.open(tiny))


def test_the_way_out_of_a_prefix_gives_the_model_back(tiny: Path) -> None:
    whole = load_file(tiny / "model.safetensors")
    rewrite(tiny, lambda w: {"_orig_mod." + name: value for name, value in w.items()})
    with pytest.raises(SourceError) as refused:
        prove_names(Checkpoint.open(tiny))
    program = str(refused.value).partition("file F: ")[2]
    exec(program, {"F": str(tiny / "model.safetensors")})
    assert load_file(tiny / "model.safetensors").keys() == whole.keys()
    assert prove_names(Checkpoint.open(tiny)).notes == []


@pytest.mark.parametrize(("change", "says"), [
    (lambda w: {n: v for n, v in w.items() if n != "model.norm.weight"}, "missing: model.norm.weight"),
    (lambda w: w | {"model.layers.0.self_attn.q_proj.bias": np.ones(64, np.float32)}, "q_proj.bias"),
    (lambda w: w | {"model.norm.weight": np.ones(63, np.float32)}, "another shape than the model's: model.norm.weight"),
    (lambda w: w | {"value_head.weight": np.ones((1, 64), np.float32)}, "none of the model's: value_head.weight"),
])
def test_tensors_that_are_not_the_models_are_named(
    tiny: Path, change: Callable[[Weights], Weights], says: str
) -> None:
    rewrite(tiny, change)
    with pytest.raises(SourceError, match=says):
        prove_names(Checkpoint.open(tiny))


def test_another_head_beside_a_tied_config_is_kept(tiny: Path) -> None:
    configure(tiny, tie_word_embeddings=True)
    head = load_file(tiny / "model.safetensors")["lm_head.weight"]
    checkpoint = Checkpoint.open(tiny)
    assert prove_names(checkpoint).own_head
    model = load_model(checkpoint, dtype=None)
    np.testing.assert_array_equal(model.get_output_embeddings().weight.numpy(), head)
    assert not np.array_equal(model.get_input_embeddings().weight.numpy(), head)


def test_a_head_that_equals_the_embedding_stays_tied(tiny: Path) -> None:
    configure(tiny, tie_word_embeddings=True)
    rewrite(tiny, lambda w: w | {"lm_head.weight": w["model.embed_tokens.weight"].copy()})
    assert not prove_names(Checkpoint.open(tiny)).own_head


@pytest.mark.parametrize("family", sorted(tiny_families.TINY))
def test_every_familys_own_checkpoint_is_the_model(family: str, tmp_path: Path) -> None:
    saved = tiny_families.save(tiny_families.TINY[family], tmp_path / family)
    assert prove_names(Checkpoint.open(saved)).notes == []


@pytest.mark.parametrize(("values", "says"), [
    ({"rms_norm_eps": float("inf")}, "rms_norm_eps"), ({"rms_norm_eps": 0}, "rms_norm_eps"),
    ({"rope_theta": 0}, "rope_theta"), ({"max_position_embeddings": 0}, "max_position_embeddings"),
    ({"logits_scaling": 0.0}, "logits_scaling"), ({"rope_scaling": {"rope_type": "linear", "factor": -1}}, "factor"),
])
def test_values_with_which_no_model_computes_are_refused(tiny: Path, values: dict[str, object], says: str) -> None:
    configure(tiny, **values)
    with pytest.raises(SourceError, match=says):
        Checkpoint.open(tiny)


def test_a_norm_stored_as_integers_is_refused(tiny: Path) -> None:
    rewrite(tiny, lambda w: w | {"model.norm.weight": np.ones(64, np.int64)})
    with pytest.raises(SourceError, match=r"model\.norm\.weight is stored as int64"):
        Checkpoint.open(tiny)


@pytest.mark.parametrize("alone", [True, False])
def test_an_adapter_is_told_with_its_base(tiny: Path, tmp_path: Path, alone: bool) -> None:
    folder = tmp_path / "adapter" if alone else tiny
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "base_model_name_or_path": "somebody/base"}))
    with pytest.raises(SourceError, match=r"LoRA adapter of somebody/base.*merge_and_unload.*--method adapter:path="):
        Checkpoint.open(folder)


def test_names_that_transformers_itself_completes_are_no_fault(tiny_models: Path, tmp_path: Path) -> None:
    source = tiny_models / "gpt2" / "checkpoint"
    folder = Path(shutil.copytree(source, tmp_path / "gpt2", copy_function=shutil.copyfile))
    mask = np.tril(np.ones((1, 1, 8, 8), np.float32))

    def as_on_the_hub(held: Weights) -> Weights:
        bare = {name.removeprefix("transformer."): value for name, value in held.items()}
        return bare | {n.replace("ln_1.weight", "attn.bias"): mask.copy() for n in bare if n.endswith("ln_1.weight")}

    rewrite(folder, as_on_the_hub)
    assert "h.0.attn.bias" in Checkpoint.open(folder).tensors
    whole = load_model(Checkpoint.open(source), dtype=None).state_dict()
    found = load_model(Checkpoint.open(folder), dtype=None).state_dict()
    assert found.keys() == whole.keys()
    assert all(bool((found[name] == whole[name]).all()) for name in whole)
