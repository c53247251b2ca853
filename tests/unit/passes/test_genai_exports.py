"""Graphs that the genai builder itself made, against the checkpoint edited in PyTorch by this test."""

from __future__ import annotations

import copy
import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from synthetic import run_onnx, worst

from foldrank.bundle.bundle import Bundle, seal
from foldrank.digests import WeightDigest, combine, sha256_file
from foldrank.edits import Edit
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.errors import PassRefused
from foldrank.export.child import run_child
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.planfile.document import PlanDocument, Source
from foldrank.planfile.plan import Plan
from foldrank.sites import Site
from foldrank.verbs.apply import apply

torch = pytest.importorskip("torch")
if importlib.util.find_spec("onnxruntime_genai") is None:
    pytest.skip("needs onnxruntime-genai", allow_module_level=True)

IDS = np.random.default_rng(4).integers(3, 250, 40)
ROLES = ("q", "k", "v", "o", "gate", "up", "down")
CLOSE = 1e-4
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


class Model:
    """A checkpoint in PyTorch, float64, and edits made to it by hand."""

    def __init__(self, checkpoint: Path, bundle: Bundle) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
        self.config_sha256 = bundle.manifest.source["config_sha256"]
        self.layers = self.model.model.layers
        self.original = copy.deepcopy(self.layers)
        self.edits: list[Edit] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.gone: set[int] = set()

    def linear(self, block: int, role: str) -> torch.nn.Linear:
        layer = self.layers[block]
        return getattr(layer.self_attn if role in "qkvo" else layer.mlp, f"{role}_proj")

    def weight(self, block: int, role: str) -> np.ndarray:
        """[in, out]."""
        return np.ascontiguousarray(self.linear(block, role).weight.detach().numpy().T)

    def fold(self, blocks: tuple[int, ...], coefficients: dict[int, float], norms: str = "bottom") -> Model:
        """Merge into the lowest."""
        merged = {}
        for role in ROLES:
            values = [coefficients[b] for b in blocks]
            merged[role] = combine([self.weight(b, role) for b in blocks], values)
            if self.linear(blocks[0], role).bias is not None:
                biases = [self.linear(b, role).bias.detach().numpy() for b in blocks]
                merged[f"{role}.bias"] = combine(biases, values)
        with torch.no_grad():
            for role in ROLES:
                linear = self.linear(blocks[0], role)
                linear.weight.copy_(torch.from_numpy(merged[role].T.copy()))
                if linear.bias is not None:
                    linear.bias.copy_(torch.from_numpy(merged[f"{role}.bias"]))
            if norms == "top":
                for name, norm in self.layers[blocks[0]].named_children():
                    if "norm" in name:
                        norm.weight.copy_(getattr(self.original[blocks[-1]], name).weight)
        self.edits.append(FoldBlocks(blocks[0], blocks, coefficients, norms))
        self.gone |= set(blocks[1:])
        return self

    def low_rank(self, site: str, rank: int) -> Model:
        """A random pair."""
        parsed = Site.parse(site)
        weights = [self.weight(parsed.block, role) for role in parsed.roles]
        rng = np.random.default_rng(rank)
        n_in, n_out = weights[0].shape[0], sum(w.shape[1] for w in weights)
        a = (rng.standard_normal((n_in, rank)) / np.sqrt(n_in)).astype(np.float32)
        b = (rng.standard_normal((rank, n_out)) / np.sqrt(rank)).astype(np.float32)
        self.edits.append(LowRank(parsed, (n_in, n_out), rank, (f"{site}.A", f"{site}.B"),
                                  tuple(WeightDigest.of(w) for w in weights)))
        self.arrays |= {f"{site}.A": a, f"{site}.B": b}
        whole, start = torch.from_numpy(a).double() @ torch.from_numpy(b).double(), 0
        with torch.no_grad():
            for role, old in zip(parsed.roles, weights, strict=True):
                stop = start + old.shape[1]
                self.linear(parsed.block, role).weight.copy_(whole[:, start:stop].T)
                start = stop
        return self

    def plan(self) -> Plan:
        named = {b for e in self.edits if isinstance(e, FoldBlocks) for b in e.blocks}
        digests = {}
        for block in named:
            for role in ROLES:
                part = self.original[block].self_attn if role in "qkvo" else self.original[block].mlp
                weight = getattr(part, f"{role}_proj").weight.detach().numpy().T
                digests[f"block.{block:02d}.{role}"] = WeightDigest.of(np.ascontiguousarray(weight))
        source = Source("tiny", self.config_sha256, "x", len(self.original), digests)
        return Plan(PlanDocument(source, None, (), {}, {}, tuple(self.edits)), self.arrays)

    def logits(self) -> np.ndarray:
        kept = [layer for i, layer in enumerate(self.layers) if i not in self.gone]
        self.model.model.layers = torch.nn.ModuleList(kept)
        self.model.config.num_hidden_layers = len(kept)
        for i, layer in enumerate(kept):
            layer.self_attn.layer_idx = i
        with torch.no_grad():
            return self.model.double()(torch.from_numpy(IDS)[None], use_cache=False).logits[0].numpy()


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
        model = edit(Model(checkpoint, dense))
        small = apply(dense, model.plan(), tmp_path / label)
        expected = model.logits()
        assert worst(run_onnx(small.model, IDS), expected) < CLOSE, label
        assert worst(run_onnx(small.model, IDS, (17, 1, 1, 21)), expected) < CLOSE, label


@pytest.mark.slow
def test_fp16_export_is_proved_and_runs(export: Callable[..., Export], tmp_path: Path) -> None:
    """On the CPU the builder writes MultiHeadAttention for fp16: the logits agree as far as fp16 goes."""
    checkpoint, dense = export("llama", "fp16")
    model = Model(checkpoint, dense).fold((2, 3), {2: 0.0, 3: 1.0}).low_rank("block.00.qkv", 13)
    small = apply(dense, model.plan(), tmp_path / "small")
    found, expected = run_onnx(small.model, IDS), model.logits()
    assert worst(found, expected) < 2e-2
    assert (found.argmax(-1) == expected.argmax(-1)).mean() > 0.9


@pytest.mark.slow
def test_gemma2_alternates_kinds_and_merges_only_equal_ones(export: Callable[..., Export], tmp_path: Path) -> None:
    checkpoint, dense = export("gemma2")
    decoder = read_decoder(load_model(dense.model))
    assert {len(block.norms) for block in decoder.blocks} == {4}
    with pytest.raises(PassRefused, match="local_window_size"):
        apply(dense, Model(checkpoint, dense).fold((1, 2), {1: 0.0, 2: 1.0}).plan(), tmp_path / "refused")
    drop = Model(checkpoint, dense).fold((1, 2, 3), {1: 1.0, 2: 0.0, 3: 0.0}).low_rank("block.04.gate_up", 9)
    small = apply(dense, drop.plan(), tmp_path / "small")
    assert small.json("genai_config.json")["model"]["decoder"]["sliding_window"]["layers"] == [0, 2]
    assert small.json("config.json")["layer_types"] == [
        "sliding_attention", "full_attention", "sliding_attention", "full_attention"]
