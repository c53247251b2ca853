"""What a checkpoint is comes before whether it is sound: one line names every kind that is not a decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from foldrank.errors import SourceError
from foldrank.model.checkpoint import Checkpoint
from foldrank.model.identify import identify
from foldrank.model.readable import readable

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 12, "vocab_size": 16,
    "tie_word_embeddings": True,
}
SHAPES = {"self_attn.q_proj": (8, 8), "self_attn.k_proj": (4, 8), "self_attn.v_proj": (4, 8),
          "self_attn.o_proj": (8, 8), "mlp.gate_proj": (12, 8), "mlp.up_proj": (12, 8), "mlp.down_proj": (8, 12)}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.json").write_text("{}")
    tensors = {f"model.layers.0.{name}.weight": np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    save_file({"model.embed_tokens.weight": np.ones((16, 8), np.float32), **tensors}, path / "model.safetensors")
    return path


@pytest.mark.parametrize(("changes", "name"), [
    ({"architectures": ["Gemma3ForConditionalGeneration"]}, "multimodal"), ({"vision_config": {}}, "multimodal"),
    ({"audio_config": {"d": 1}}, "multimodal"),
    ({"model_type": "mamba2"}, "recurrent"), ({"model_type": "lfm2"}, "recurrent"), ({"ssm_cfg": {}}, "recurrent"),
    ({"layer_types": ["conv", "full_attention"]}, "recurrent"),
    ({"layer_types": ["linear_attention", "full_attention"]}, "recurrent"),
    ({"block_types": ["recurrent", "attention"]}, "recurrent"),
    ({"is_encoder_decoder": True}, "encoder-decoder"), ({"model_type": "t5"}, "encoder-decoder"),
    ({"model_type": "bert", "architectures": ["BertModel"]}, "encoder-only"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "other-head"),
    ({"quantization_config": {"quant_method": "awq"}}, "quantised"), ({"num_local_experts": 4}, "experts"),
    ({}, "decoder"), ({"layer_types": ["sliding_attention", "full_attention"]}, "decoder"),
])
def test_a_config_tells_the_kind(changes: dict[str, Any], name: str) -> None:
    assert identify({**CONFIG, **changes}, {}).name == name


@pytest.mark.parametrize(("name", "tensor", "says"), [
    ("model.layers.0.mlp.up_proj.qweight", np.ones((2, 2), np.int32), "quantised .GPTQ or AWQ"),
    ("model.layers.0.mlp.up_proj.SCB", np.ones(2, np.float32), "bitsandbytes"),
    ("model.layers.0.mlp.extra.weight", np.ones((2, 2), np.int8), "stored as int8"),
])
def test_quantised_weights_are_named_where_the_config_is_silent(
    folder: Path, name: str, tensor: np.ndarray, says: str
) -> None:
    save_file({name: tensor}, folder / "model.safetensors")
    with pytest.raises(SourceError, match=says):
        Checkpoint.open(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"])
def test_a_git_lfs_pointer_is_called_one(folder: Path, name: str) -> None:
    (folder / name).write_text(POINTER)
    with pytest.raises(SourceError, match=rf"{name}: is a Git LFS pointer.*git lfs pull"):
        Checkpoint.open(folder)


def test_a_byte_order_mark_infinity_and_a_foreign_attention_are_read_and_kept_from_the_libraries(folder: Path) -> None:
    config = {**CONFIG, "time_step_limit": [0.0, float("inf")], "_attn_implementation": "flash_attention_2"}
    (folder / "config.json").write_text("\ufeff" + json.dumps(config), encoding="utf-8")
    found = Checkpoint.open(folder)
    assert found.config["time_step_limit"] == [0.0, float("inf")]
    with readable(found) as clean:
        read = json.loads((clean / "config.json").read_text(encoding="utf-8"))
        assert read == {**CONFIG, "time_step_limit": [0.0, float("inf")]}
        assert (clean / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_weights_under_another_name_are_found_and_shown_under_the_common_one(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    found = Checkpoint.open(folder)
    assert [path.name for path in found.weight_files] == ["consolidated.safetensors"]
    with readable(found) as clean:
        assert (clean / "model.safetensors").resolve() == found.path / "consolidated.safetensors"
    save_file({"tok_embeddings.weight": np.ones((16, 8), np.float32)}, folder / "consolidated.safetensors")
    with pytest.raises(SourceError, match=r"consolidated\.safetensors: holds the names of Mistral's"):
        Checkpoint.open(folder)
    save_file({"a": np.ones(1)}, folder / "b.safetensors")
    with pytest.raises(SourceError, match="has 2 safetensors files"):
        Checkpoint.open(folder)


def test_a_snapshot_of_the_hub_is_called_as_its_model(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "models--owner--a--name" / "snapshots"
    place.mkdir(parents=True)
    assert Checkpoint.open(folder.rename(place / "0123abcd")).name == "owner/a--name"
