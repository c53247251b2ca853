"""A fresh export is proved before it is a bundle: what the builder leaves out is refused, what it writes well passes.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kind_rooms import ANATOMY

from foldrank.bundle.bundle import Bundle
from foldrank.errors import NotWritable
from foldrank.export.exporters import run_exporter
from foldrank.graph.safe.load import load_model
from foldrank.model.checkpoint import Checkpoint
from foldrank.model.tensorfile import StoredTensor
from foldrank.verbs.export import export
from foldrank.verbs.export_anatomy import as_exported, misfits
from foldrank.verbs.export_window import window_of


def _scaled(source: Path, folder: Path, rope: dict[str, Any]) -> Path:
    model = Path(shutil.copytree(source, folder / "model"))
    config = json.loads((model / "config.json").read_text())
    config.pop("rope_scaling", None)
    config["rope_parameters"] = {"rope_theta": config.get("rope_theta", 10000.0), **rope}
    (model / "config.json").write_text(json.dumps(config))
    return model


def test_scaling_that_the_builder_leaves_out_is_refused_with_its_size(tiny_models: Path, tmp_path: Path) -> None:
    model = _scaled(tiny_models / "llama" / "checkpoint", tmp_path, {"rope_type": "linear", "factor": 4.0})
    with pytest.raises(NotWritable, match=r"not the checkpoint's model against PyTorch on 32 tokens: "
                                          r"max_relative_error .*limit 1e-05; --exporter transformers"):
        export(model, tmp_path / "out", exporter="genai")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_a_sound_export_says_how_far_it_was_proved(dense_5m: Path) -> None:
    bundle = Bundle.open(dense_5m)
    proof = bundle.manifest.export_proof
    assert proof is not None
    assert (proof["passed"], proof["tokens"], proof["tensors"]) == (True, 256, 14)
    assert 0 < float(proof["value"] or 0) <= 1e-5
    assert "dense export: `proved against PyTorch on" in (bundle.path / "README.md").read_text()


def _other(tensors: dict[str, StoredTensor], name: str, shape: tuple[int, ...] | None) -> dict[str, StoredTensor]:
    """With a tensor of another shape, or without it."""
    found = {**tensors, name: replace(tensors[name], shape=shape or ())}
    return {key: tensor for key, tensor in found.items() if tensor.shape}


@pytest.mark.parametrize(("suffix", "shape", "words"), [
    ("3.mlp.up_proj", (48, 40), r"block\.03\.up: \[\d+, \d+\], floats against \[40, 48\], floats"),
    ("2.mlp.gate_proj", None, r"block\.02\.gate: \[\d+, \d+\], floats against nothing"),
    ("5", None, r"blocks 0, 1, 2, 3, 4, 5 against 0, 1, 2, 3, 4"),
    ("7.mlp.down_proj", (40, 48), r"blocks 0, 1, 2, 3, 4, 5 against 0, 1, 2, 3, 4, 5, 7"),
], ids=["shape", "role", "block", "more-blocks"])
def test_a_graph_of_other_parts_is_refused_before_anything_runs(
    tiny_models: Path, suffix: str, shape: tuple[int, ...] | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foldrank.verbs import export_proof

    folder = tiny_models / "llama"
    checkpoint = Checkpoint.open(folder / "checkpoint")
    tensors = checkpoint.tensors
    if suffix.startswith("7"):
        tensors = {**tensors, f"model.layers.{suffix}.weight": tensors["model.layers.1.mlp.down_proj.weight"]}
    for name in [name for name in tensors if name.startswith(f"model.layers.{suffix}.")]:
        tensors = _other(tensors, name, shape)
    monkeypatch.setattr(export_proof, "dense_model", None)
    proof = export_proof.ExportProof(replace(checkpoint, tensors=tensors), dtype="fp32")
    with pytest.raises(NotWritable, match=f"the graph of optimum is not made of what the checkpoint is: .*{words}.*; "
                                          "--exporter genai, or transformers"):
        proof("optimum", folder / "optimum")


def test_what_an_exporter_may_choose_and_what_is_not_read_is_no_difference() -> None:
    block = ANATOMY.block(1)
    few = {role: replace(matrix, few_bits="4 bits") for role, matrix in block.matrices.items()}
    less = {role: matrix for role, matrix in block.matrices.items() if role not in ("gate", "up")}
    assert ANATOMY.head is not None
    for graph, untold, same in (
        (replace(ANATOMY, tied=False, head=replace(ANATOMY.head, few_bits="8 bits")), (), True),
        (replace(ANATOMY, head=None, kv_heads=4), (), True),
        (replace(ANATOMY, kv_heads=1), (), False),
        (ANATOMY.with_block(replace(block, matrices=few)), (), True),
        (ANATOMY.with_block(replace(block, matrices=less)), (), False),
        (ANATOMY.with_block(replace(block, matrices=less)), (1,), True),
        (ANATOMY.with_block(replace(block, matrices=less, unread=frozenset({"gate", "up"}))), (), True),
        (ANATOMY.with_block(replace(block, matrices=less, unread=frozenset({"up"}))), (), False),
    ):
        assert (list(as_exported(graph, ANATOMY, untold).differences(ANATOMY)) == []) is same
    other = replace(ANATOMY, tied=False)
    assert list(as_exported(ANATOMY, other).differences(other)) == ["tied: True against False"]
    unread = ANATOMY.with_block(replace(block, matrices=less, unread=frozenset({"gate", "up"})))
    assert list(as_exported(ANATOMY, unread).differences(unread)) == []


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt2", "opt"])
def test_sound_graphs_are_made_of_what_their_checkpoints_are(tiny_models: Path, family: str) -> None:
    folder = tiny_models / family
    assert misfits(load_model(folder / "optimum" / "model.onnx"), Checkpoint.open(folder / "checkpoint")) == []


def test_a_check_that_refuses_makes_auto_take_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foldrank.export import exporters

    def check(exporter: str, folder: Path) -> None:
        assert (folder / "graph").is_file()
        if exporter == "genai":
            raise NotWritable("model", "leaves scaling out", "take another")

    def fill(_checkpoint: Any, folder: Path) -> dict[str, Any]:
        (folder / "graph").write_text("graph")
        return {}

    monkeypatch.setattr(exporters, "_named", lambda _name: fill)
    made = run_exporter("auto", SimpleNamespace(architecture="LlamaForCausalLM"), tmp_path, check=check)  # type: ignore[arg-type]
    assert (made.exporter, made.reason) == ("transformers", "leaves scaling out")


@pytest.mark.parametrize(("config", "long", "scaled_from"), [
    ({"rope_scaling": {"original_max_position_embeddings": 1024}}, 1056, 1024),
    ({"original_max_position_embeddings": 8192}, 256, 8192), ({"sliding_window": 512}, 544, None), ({}, 256, None),
])
def test_windows_reach_past_scaling_and_sliding_where_that_is_cheap(
    config: dict[str, Any], long: int, scaled_from: int | None
) -> None:
    text = {"max_position_embeddings": 32768, "vocab_size": 260, **config}
    found = window_of(SimpleNamespace(text_config=text, tensors={}))  # type: ignore[arg-type]
    assert (found.long, found.scaled_from) == (long, scaled_from)
