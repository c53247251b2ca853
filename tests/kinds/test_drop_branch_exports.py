"""drop_branch on graphs that exporters made: they compute the model without its branches, and bundles of them run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from kind_rooms import ANATOMY, SIX
from nightly import NIGHTLY

pytest.importorskip("torch")
from proved import prove
from tiny_families import TINY, save
from torch_model import Model

from foldrank.edits.drop_branch import DropBranch
from foldrank.model.checkpoint import Checkpoint
from foldrank.passes.configs import shrink_genai_config

FIXTURES = {"llama": 6, "mistral": 5, "qwen2": 5, "gemma2": 6, "gpt2": 5, "opt": 5}
"""Blocks of each."""


@pytest.mark.parametrize("family", [
    "gemma2", "opt", *(pytest.param(name, marks=NIGHTLY) for name in FIXTURES if name not in ("gemma2", "opt"))])
def test_graphs_of_optimum_compute_the_model_without_its_branches(
    tiny_models: Path, tmp_path: Path, family: str
) -> None:
    folder, last = tiny_models / family, FIXTURES[family] - 1
    model = Model(folder / "checkpoint")
    for block, branch in (*SIX[:4], (last, "attention")):
        model.drop(block, branch)
    if family == "gemma2":  # optimum traces SDPA, which leaves the soft cap of attention out
        for layer in model.layers:
            layer.self_attn.attn_logit_softcapping = None
    prove(folder / "optimum" / "model.onnx", model, tmp_path / "small")


GENAI = pytest.mark.skipif(importlib.util.find_spec("onnxruntime_genai") is None, reason="needs onnxruntime-genai")


@GENAI
@pytest.mark.parametrize("family", [
    "gemma2", *(pytest.param(name, marks=NIGHTLY) for name in ("llama", "qwen3", "granite", "phi3"))])
def test_a_bundle_is_written_read_and_run(family: str, tmp_path: Path) -> None:
    """Of a graph that the model builder made: configs count blocks and pairs, onnxruntime-genai goes on with the tokens
    that ONNX Runtime does."""
    from continued import genai_tokens, own_tokens

    from foldrank.verbs.apply import apply
    from foldrank.verbs.diff import diff
    from foldrank.verbs.export import export

    checkpoint = save(TINY[family], tmp_path / family)
    dense = export(checkpoint, tmp_path / "dense", exporter="genai", offline=True)
    model = Model(checkpoint)
    for drop in SIX:
        model.drop(*drop)
    plan = model.plan(Checkpoint.open(checkpoint).config_sha256)
    bundle = apply(dense, plan, tmp_path / "small")
    prove(dense.model, model, tmp_path / "proved")
    config = bundle.json("config.json")
    assert config["num_hidden_layers"] == 5
    assert bundle.json("genai_config.json")["model"]["decoder"]["num_hidden_layers"] == 3
    if family == "gemma2":
        assert config["layer_types"] == [TINY[family].options["layer_types"][block] for block in (0, 1, 2, 4, 5)]
    assert genai_tokens(bundle.path) == own_tokens(bundle.path)
    assert {"what": "blocks", "a": 6, "b": 5} in diff(dense.path, bundle.path)["differences"]
    card = (bundle.path / "README.md").read_text(encoding="utf-8")
    assert "Attention dropped in blocks 0, 3, 5." in card
    assert "with 5 blocks" in card


def test_a_sliding_windows_blocks_are_counted_among_pairs(tmp_path: Path) -> None:
    """genai_config.json names them by the place of their pair."""
    given = {"model": {"decoder": {"sliding_window": {"layers": [0, 2, 3]}}}}
    after = DropBranch(0, "attention").on(ANATOMY)
    assert shrink_genai_config(given, ANATOMY, after)["model"]["decoder"] == {
        "num_hidden_layers": 3, "head_size": 16, "sliding_window": {"layers": [1, 2]}}
