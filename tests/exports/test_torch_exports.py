"""Graphs that transformers.exporters (5.23) and torch.onnx.export themselves make, against their checkpoints edited in
PyTorch by this test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from anonymous import strip_names
from same_view import same_view

from foldrank.errors import PassRefused
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.passes.pipeline import transform

pytest.importorskip("torch")
from exports import plainly
from nightly import AT_NIGHT, NIGHTLY
from proved import prove
from torch_model import Model

Export = Callable[[str], tuple[Path, Path]]
FAMILIES = [
    "llama-bundled",
    *(pytest.param(family, marks=NIGHTLY)
      for family in ("llama", "llama-plain", "llama-fused", "qwen2", "gpt2", "opt")),
]


@pytest.fixture(scope="session")
def export(
    tiny_models: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Export:
    """Export a tiny checkpoint once per session: (checkpoint, decode graph). A bundled one is what `foldrank export`
    makes of the same exporter's graph: its ports renamed, its nodes untouched."""
    done: dict[str, tuple[Path, Path]] = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in done:
            checkpoint = tiny_models / name.partition("-")[0] / "checkpoint"
            if name.endswith("-bundled"):
                done[name] = checkpoint, request.getfixturevalue("traced_llama") / "model.onnx"
                return done[name]
            folder = tmp_path_factory.mktemp("export")
            if name.endswith("-plain"):
                done[name] = checkpoint, plainly(checkpoint, folder, "fp32")
                return done[name]
            _export(checkpoint, folder, "cpu" if name.endswith("-fused") else None)
            done[name] = checkpoint, folder / "decode.onnx"
        return done[name]

    return make


def _export(checkpoint: Path, folder: Path, fusions: str | None) -> None:
    """A padded sample: with a mask of ones alone the attention_mask vanishes."""
    pytest.importorskip("transformers.exporters")
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.exporters import OnnxConfig, OnnxExporter

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = torch.arange(3, 15).reshape(2, 6)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    config = OnnxConfig(dynamic=True, ort_fusions=fusions)
    sample = {"input_ids": ids, "attention_mask": mask}
    OnnxExporter().export_for_generation(model, sample, config, multi_token_decode=True).save_pretrained(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_graph_computes_what_the_plan_says(export: Export, tmp_path: Path, family: str) -> None:
    checkpoint, graph = export(family)
    decoder = read_decoder(load_model(graph))
    last = len(decoder.blocks) - 1
    up = "gate_up" if "gate" in Model(checkpoint).roles else "up"
    plans: dict[str, Callable[[Model], object]] = {
        "empty": lambda m: m,
        "start": lambda m: m.fold((0, 1), {0: 0.0, 1: 1.0}, "top"),
        "middle": lambda m: m.fold((1, 2, 3), {1: 0.5, 2: 0.25, 3: 0.25}, into=3),
        "end": lambda m: m.fold(tuple(range(last - 3, last + 1)), dict.fromkeys(range(last - 3, last + 1), 0.25)),
        "roles": lambda m: [m.low_rank(f"block.{i % last:02d}.{role}", 5 + i) for i, role in enumerate(m.roles)],
        "packed": lambda m: m.low_rank("block.00.qkv", 13).low_rank(f"block.01.{up}", 17).replace("block.02.v"),
        "both": lambda m: m.fold((1, 2), {1: 0.5, 2: 0.5}).low_rank("block.01.qkv", 13).low_rank("block.03.down", 8),
    }
    if not AT_NIGHT:
        plans = {name: plans[name] for name in ("empty", "middle", "roles", "both")}
    for name, edit in plans.items():
        model = Model(checkpoint)
        edit(model)
        prove(graph, model, tmp_path / name)


def test_without_scopes_the_same_blocks_and_sites_are_found(export: Export, tmp_path: Path) -> None:
    checkpoint, graph = export("llama-bundled")
    bare = strip_names(graph, tmp_path / "bare" / "model.onnx")
    same_view(graph, bare)
    prove(bare, Model(checkpoint).fold((1, 2), {1: 0.5, 2: 0.5}).low_rank("block.01.qkv", 13), tmp_path / "small")


def test_cache_and_names_are_the_common_ones(export: Export, tmp_path: Path) -> None:
    """The exporter asks blocks 3 and 4 for the length of the past: they may leave all the same."""
    checkpoint, graph = export("llama-bundled")
    before = load_model(graph)
    asked = {int(str(v.name).split(".")[-2]) for v in before.graph.inputs for n in v.consumers()
             if "past" in str(v.name) and n.op_type == "Shape"}
    model = Model(checkpoint).fold(tuple(range(1, 6)), {1: 1.0, 2: 0.0, 3: 0.0, 4: 0.0, 5: 0.0})
    assert asked & set(range(2, 6))
    small = load_model(prove(graph, model, tmp_path))
    cache = [f"{{}}.{i}.{kind}" for i in (0, 1) for kind in ("key", "value")]
    assert [v.name for v in small.graph.inputs] == [
        "input_ids", "attention_mask", "position_ids", *(name.format("past_key_values") for name in cache)]
    assert [v.name for v in small.graph.outputs] == ["logits", *(name.format("present") for name in cache)]
    assert {tuple(v.shape)[1::2] for v in small.graph.inputs if "past" in v.name} == {(2, 16)}


@NIGHTLY
def test_gemma2_merges_blocks_of_one_kind_and_loses_the_echo_of_its_window(export: Export, tmp_path: Path) -> None:
    checkpoint, graph = export("gemma2")
    assert any("_sliding_window" in str(v.name) for v in load_model(graph).graph.inputs)
    with pytest.raises(PassRefused, match="different kinds"):
        transform(load_model(graph), Model(checkpoint).fold((1, 2), {1: 0.0, 2: 1.0}).plan())
    model = Model(checkpoint).fold((1, 2, 3), {1: 0.5, 2: 0.0, 3: 0.5}, "top").low_rank("block.04.gate_up", 9)
    for layer in model.layers:  # traced with SDPA, which leaves the soft cap of attention out
        layer.self_attn.attn_logit_softcapping = None
    small = load_model(prove(graph, model, tmp_path))
    assert not any("_sliding_window" in str(v.name) for v in (*small.graph.inputs, *small.graph.outputs))
