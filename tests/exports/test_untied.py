"""A head of its own beside a config that ties it: exported as the weights have it, and said wherever one looks."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import foldrank
from foldrank.bundle.bundle import Bundle
from foldrank.export.untied import untied
from foldrank.model.checkpoint import Checkpoint
from foldrank.verbs.inspect import inspect


@pytest.fixture
def other_head(tiny_models: Path, tmp_path: Path) -> Path:
    source = tiny_models / "llama" / "checkpoint"
    folder = Path(shutil.copytree(source, tmp_path / "tiny", copy_function=shutil.copyfile))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    return folder


def test_the_untied_folder_goes_and_the_checkpoint_stays_as_it_was(other_head: Path) -> None:
    checkpoint, before = Checkpoint.open(other_head), (other_head / "config.json").read_bytes()
    with untied(checkpoint) as given:
        config = json.loads((given.path / "config.json").read_text())
        assert config == {**checkpoint.config, "tie_word_embeddings": False}
        assert load_file(given.path / "model.safetensors").keys() == checkpoint.tensors.keys()
        assert given.name == checkpoint.name
    assert not given.path.exists()
    assert (other_head / "config.json").read_bytes() == before


def test_the_export_keeps_both_and_says_so(
    other_head: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="foldrank")
    bundle: Bundle = foldrank.export(other_head, tmp_path / "dense", exporter="genai")
    said = "the weights hold another head"
    assert bundle.json("config.json")["tie_word_embeddings"] is False
    assert bundle.manifest.export_proof is not None
    assert bundle.manifest.export_proof["passed"] is True
    assert [said in note for note in bundle.manifest.notes or ()] == [True]
    assert said in caplog.text
    assert said in (bundle.path / "README.md").read_text()
    found = inspect(bundle.path)
    assert (found["tied"], found["notes"]) == (False, bundle.manifest.notes)
    assert bundle.manifest.source["config_sha256"] == Checkpoint.open(other_head).config_sha256
    held = load_file(other_head / "model.safetensors")
    assert not np.array_equal(held["lm_head.weight"], held["model.embed_tokens.weight"])
