"""Graphs that the genai builder itself made, against the checkpoint edited in PyTorch by this test."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic import run_onnx, worst

from foldrank.bundle.bundle import Bundle, seal
from foldrank.digests import sha256_file
from foldrank.errors import PassRefused
from foldrank.export.child import run_child
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.planfile.plan import Plan
from foldrank.verbs.apply import apply

pytest.importorskip("torch")
if importlib.util.find_spec("onnxruntime_genai") is None:
    pytest.skip("needs onnxruntime-genai", allow_module_level=True)
from torch_model import CLOSE, IDS, Model

EXPORTS = {
    "llama": [], "mistral": [], "qwen2": [], "llama-split": ["disable_qkv_fusion=true"],
    "qwen2-split": ["disable_qkv_fusion=true"],
}

Export = tuple[Path, Bundle]


@pytest.fixture(scope="session")
def export(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Export]:
    """Export a tiny checkpoint once per session: (checkpoint, dense bundle)."""
    done: dict[tuple[str, str], Export] = {}

    def make(name: str, precision: str = "fp32") -> Export:
        if (name, precision) not in done:
            done[name, precision] = _export(tiny_models, tmp_path_factory.mktemp("export"), name, precision)
        return done[name, precision]

    return make


def _export(tiny_models: Path, folder: Path, name: str, precision: str) -> Export:
    checkpoint = folder / "checkpoint"
    shutil.copytree(tiny_models / name.partition("-")[0] / "checkpoint", checkpoint)
    out = folder / "dense"
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint), "-o", str(out),
               "-p", precision, "-e", "cpu", "-c", str(folder / "cache")]
    options = ["--extra_options", *EXPORTS[name]] if EXPORTS.get(name) else []
    run_child([*command, *options], folder, where=checkpoint, who="the model builder")
    shutil.copy(checkpoint / "config.json", out / "config.json")
    digest = sha256_file(out / "config.json")
    source = {"name": name, "path": str(checkpoint), "config_sha256": digest, "architecture": "x"}
    manifest = seal(out, command="export", seed=0, source=source, exporter="genai", dtype=precision, versions={})
    return checkpoint, Bundle(out, manifest)


def planned(model: Model, dense: Bundle) -> Plan:
    """The model's plan, of the checkpoint that the bundle was exported from."""
    return model.plan(dense.manifest.source["config_sha256"])


PLANS: dict[str, Callable[[Model], Model]] = {
    "empty": lambda m: m,
    "start": lambda m: m.fold((0, 1), {0: 0.0, 1: 1.0}),
    "middle": lambda m: m.fold((1, 2, 3), {1: 0.5, 2: 0.25, 3: 0.25}, "top"),
    "end": lambda m: m.fold((1, 2, 3, 4), {1: 0.0, 2: 0.0, 3: 0.0, 4: 1.0}),
    "alone": lambda m: m.low_rank("block.00.k", 5).low_rank("block.01.q", 9).low_rank("block.02.o", 7).low_rank(
        "block.03.down", 11).low_rank("block.04.gate", 6),
    "joint": lambda m: m.low_rank("block.00.qkv", 13).low_rank("block.01.gate_up", 17),
    "both": lambda m: m.fold((1, 2), {1: 0.5, 2: 0.5}).low_rank("block.01.qkv", 13).low_rank("block.03.up", 8),
}


@pytest.mark.parametrize("name", [
    "llama", "qwen2-split",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama-split", "mistral", "qwen2")),
])
def test_real_exports_compute_what_the_plan_says(export: Callable[..., Export], tmp_path: Path, name: str) -> None:
    checkpoint, dense = export(name)
    for label, edit in PLANS.items():
        model = edit(Model(checkpoint))
        small = apply(dense, planned(model, dense), tmp_path / label)
        expected = model.logits(IDS)
        assert worst(run_onnx(small.model, IDS), expected) < CLOSE, label
        assert worst(run_onnx(small.model, IDS, (17, 1, 1, 21)), expected) < CLOSE, label


@pytest.mark.slow
def test_fp16_export_is_proved_and_runs(export: Callable[..., Export], tmp_path: Path) -> None:
    """On the CPU the builder writes MultiHeadAttention for fp16: the logits agree as far as fp16 goes."""
    checkpoint, dense = export("llama", "fp16")
    model = Model(checkpoint).fold((2, 3), {2: 0.0, 3: 1.0}).low_rank("block.00.qkv", 13)
    small = apply(dense, planned(model, dense), tmp_path / "small")
    found, expected = run_onnx(small.model, IDS), model.logits(IDS)
    assert worst(found, expected) < 2e-2
    assert (found.argmax(-1) == expected.argmax(-1)).mean() > 0.9


@pytest.mark.slow
def test_gemma2_alternates_kinds_and_merges_only_equal_ones(export: Callable[..., Export], tmp_path: Path) -> None:
    checkpoint, dense = export("gemma2")
    decoder = read_decoder(load_model(dense.model))
    assert {len(block.norms) for block in decoder.blocks} == {4}
    with pytest.raises(PassRefused, match="local_window_size"):
        apply(dense, planned(Model(checkpoint).fold((1, 2), {1: 0.0, 2: 1.0}), dense), tmp_path / "refused")
    drop = Model(checkpoint).fold((1, 2, 3), {1: 1.0, 2: 0.0, 3: 0.0}).low_rank("block.04.gate_up", 9)
    small = apply(dense, planned(drop, dense), tmp_path / "small")
    assert small.json("genai_config.json")["model"]["decoder"]["sliding_window"]["layers"] == [0, 2]
    assert small.json("config.json")["layer_types"] == [
        "sliding_attention", "full_attention", "sliding_attention", "full_attention"]
