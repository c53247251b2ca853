"""Rotary settings as transformers 5 writes them, in the words of transformers 4."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from foldrank import strictjson
from foldrank.export.older import older_checkpoint, older_config
from foldrank.model.checkpoint import Checkpoint


@pytest.mark.parametrize(("config", "added"), [
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, {"rope_theta": 5e5}),
    ({"model_type": "gpt_neox", "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
     {"rotary_emb_base": 1e4, "rotary_pct": 0.5}),
    ({"model_type": "phi3", "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.75}},
     {"rope_theta": 1e4, "partial_rotary_factor": 0.75}),
    ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}},
     {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}}),
    ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                          "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}},
     {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_local_base_freq": 1e4}),
    ({"rope_theta": 7.0, "rope_parameters": {"rope_theta": 5e5}}, {}),
    ({"model_type": "gpt2", "n_layer": 4}, {}),
])
def test_settings_are_said_again_and_none_is_replaced(config: dict[str, Any], added: dict[str, Any]) -> None:
    assert older_config(config) == config | added
    assert older_config({"text_config": config}) == {"text_config": config | added}


def test_a_checkpoint_keeps_its_files_and_the_original_its_config(tiny_models: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_models / "llama" / "checkpoint", tmp_path / "checkpoint"))
    os.chmod(source / "config.json", 0o644)
    config = strictjson.read(source / "config.json")
    config.pop("rope_theta", None)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 123456.0}
    (source / "config.json").write_text(strictjson.dumps(config))
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    made = older_checkpoint(Checkpoint.open(source), tmp_path / "older")
    assert {path.name for path in made.iterdir()} == set(before)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    opened = Checkpoint.open(made)
    assert opened.config["rope_theta"] == 123456.0
    assert (made / "model.safetensors").read_bytes() == before["model.safetensors"]


def test_weights_under_another_name_and_a_byte_order_mark_reach_the_older_library(
    tiny_models: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(tiny_models / "llama" / "checkpoint", tmp_path / "checkpoint"))
    (source / "model.safetensors").rename(source / "consolidated.safetensors")
    (source / "tokenizer_config.json").chmod(0o644)
    (source / "tokenizer_config.json").write_bytes(b"\xef\xbb\xbf" + (source / "tokenizer_config.json").read_bytes())
    made = older_checkpoint(Checkpoint.open(source), tmp_path / "older")
    assert (made / "model.safetensors").resolve() == source / "consolidated.safetensors"
    assert (made / "tokenizer_config.json").read_bytes()[:1] == b"{"
    assert Checkpoint.open(made).weight_files == [made / "model.safetensors"]
