"""validate on real bundles: passes on what is right, and fails on faults that a careless check would miss."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from foldrank.bundle.bundle import Bundle, seal
from foldrank.errors import BundleError, SourceError
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.reference import reference_model
from foldrank.plans.texts import load_text, load_tokenizer, windows
from foldrank.reports.validate import GraphProof
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.proof.graph_proof import prove
from foldrank.runtime.providers.provider import resolve
from foldrank.verbs.export import export
from foldrank.verbs.validate import validate


@pytest.fixture(scope="module")
def dense(dense_5m: Path) -> Bundle:
    return Bundle.open(dense_5m)


@pytest.fixture
def copy(dense: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(dense.path, tmp_path / "copy"))


def places(bundle: Bundle) -> dict[str, tuple[int, int]]:
    """Offset and length of every weight in model.onnx.data."""
    graph = onnx.load(bundle.model, load_external_data=False).graph
    entries = {t.name: {e.key: e.value for e in t.external_data} for t in graph.initializer if t.external_data}
    return {name: (int(e["offset"]), int(e["length"])) for name, e in entries.items()}


def resealed(bundle: Bundle) -> Bundle:
    """The bundle with a manifest that fits its files again, as a faulty tool would leave it."""
    old = bundle.manifest
    seal(bundle.path, command=old.command, seed=old.seed, source=old.source, exporter=old.exporter, dtype=old.dtype,
         versions=old.versions)
    return Bundle.open(bundle.path)


def scaled(bundle: Bundle, name: str, factor: float) -> Bundle:
    data = bundle.path / "model.onnx.data"
    offset, length = places(bundle)[name]
    values = np.memmap(data, np.float32, "r+", offset=offset, shape=(length // 4,))
    values *= np.float32(factor)
    values.flush()
    return resealed(bundle)


def swapped(bundle: Bundle, first: int, second: int) -> Bundle:
    path = bundle.path / "model.onnx.data"
    data, found = bytearray(path.read_bytes()), places(bundle)
    for name, (start, length) in found.items():
        if f".layers.{first}." in name:
            other, _ = found[name.replace(f".layers.{first}.", f".layers.{second}.")]
            mine = bytes(data[start : start + length])
            data[start : start + length] = data[other : other + length]
            data[other : other + length] = mine
    path.write_bytes(bytes(data))
    return resealed(bundle)


Proof = Callable[[Bundle], GraphProof]


@pytest.fixture(scope="module")
def proof(specs_5m: Path) -> Proof:
    """The graph proof of a bundle of specs-5m on fewer positions, the reference computed once."""
    network = reference_model(Checkpoint.open(specs_5m), None)
    texts = load_text(None, "validation")[:4]
    ids = windows(texts, load_tokenizer(specs_5m), window=64, tokens=16 * 64, seed=0)
    with torch.inference_mode():
        wanted = network(input_ids=torch.from_numpy(ids), use_cache=False).logits.numpy()
    logits = {row.tobytes(): want for row, want in zip(ids, wanted, strict=True)}

    def run(bundle: Bundle) -> GraphProof:
        decoder = OrtDecoder.open(bundle.path, resolve("cpu"), threads=1)
        known = lambda rows: np.stack([logits[row.tobytes()] for row in rows])  # noqa: E731
        return prove(decoder, known, ids, described="specs-5m", precision=bundle.manifest.dtype)

    return run


def checked(bundle: Bundle, dense: Bundle, **options: Any) -> dict[str, Any]:
    """On fewer positions than a user gets."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("foldrank.verbs.proving_windows.MIN_POSITIONS", 1024)
        return validate(bundle, reference=dense, **{"tokens": 1024, "threads": 1, **options})


def test_a_dense_bundle_passes_both_and_writes_what_it_returns(copy: Bundle, dense: Bundle) -> None:
    found = checked(copy, dense, tokens=5120, max_perplexity_increase="0%", min_top1_agreement=1.0)
    graph, quality = found["graph"], found["quality"]
    assert graph["passed"] is True
    assert graph["positions"] >= 1024  # asked for here; all that a user gets are in test_whole_way
    assert graph["max_relative_error"] <= 1e-5  # measured 1.2e-6
    assert graph["argmax_agreement"] == 1.0
    assert max(graph[k] for k in ("cached_decode_error", "padded_error", "batch_error")) <= 1e-5
    assert (quality["perplexity_ratio"], quality["kl_nats"], quality["top1_agreement"]) == (1.0, 0.0, 1.0)
    assert quality["window"] == 256  # what the model was trained on; it claims 1,024
    assert 25 < quality["dense_perplexity"] < 30  # 27.8 measured on this text; a third more with windows of 512
    assert quality["greedy_prefix_tokens"] == quality["greedy_continued_tokens"]
    assert [sample["dense"] for sample in found["samples"]] == [sample["bundle"] for sample in found["samples"]]
    assert all(len(sample["prompt"]) > 32 and sample["dense"].strip() for sample in found["samples"][:3])
    assert found["verdict"] == "pass"
    assert all(gate["passed"] for gate in found["gates"])
    assert Bundle.open(copy.path).json("reports/validate.json") == found


def test_a_right_bundle_passes_the_proof(dense: Bundle, proof: Proof) -> None:
    assert proof(dense).passed is True


@pytest.mark.parametrize("name", [
    "model.layers.6.attn.qkv_proj.MatMul.weight", "model.layers.0.attn.o_proj.MatMul.weight",
    "model.layers.11.mlp.down_proj.MatMul.weight", "model.layers.3.mlp.gate_proj.MatMul.weight",
    "model.layers.8.post_attention_layernorm.weight", "lm_head.MatMul.weight",
])
def test_a_weight_that_is_one_percent_off_fails_the_proof(copy: Bundle, proof: Proof, name: str) -> None:
    found = proof(scaled(copy, name, 1.01))
    assert found.passed is False
    assert found.max_relative_error is not None
    assert found.max_relative_error > 1e-4  # ten times the limit


def test_two_blocks_in_each_others_place_fail_the_proof_and_the_verdict(copy: Bundle, dense: Bundle) -> None:
    found = checked(swapped(copy, 4, 5), dense)
    assert (found["graph"]["passed"], found["verdict"]) == (False, "fail")


def test_quality_gates_fail_alone(copy: Bundle, dense: Bundle) -> None:
    spoiled = swapped(copy, 2, 9)
    found = checked(spoiled, dense, proof=False, max_perplexity_increase=0.05, min_top1_agreement=0.99)
    assert found["graph"]["passed"] is None
    assert found["graph"]["reference"] == "not run"
    assert {g["name"]: g["passed"] for g in found["gates"]} == {
        "graph_proof": None, "max_perplexity_increase": False, "min_top1_agreement": False}
    assert found["verdict"] == "fail"
    assert found["quality"]["kl_nats"] > 0


def test_without_a_proof_nothing_is_called_proven(copy: Bundle, dense: Bundle) -> None:
    found = checked(copy, dense, proof=False)
    assert found["verdict"] == "pass"
    assert found["graph"]["positions"] == 0


def test_a_half_precision_bundle_passes_by_kl_until_a_weight_is_ten_percent_off(
    specs_5m: Path, dense: Bundle, tmp_path: Path, proof: Proof
) -> None:
    half = export(specs_5m, tmp_path / "half", dtype="fp16")
    found = proof(half)
    assert (found.passed, found.measure) == (True, "kl_nats")
    assert found.kl_nats is not None
    assert 0 < found.kl_nats < 1e-5
    assert checked(half, dense, proof=False)["quality"]["top1_agreement"] > 0.99
    offset, length = places(half)["model.layers.11.mlp.down_proj.MatMul.weight"]
    values = np.memmap(half.path / "model.onnx.data", np.float16, "r+", offset=offset, shape=(length // 2,))
    values *= np.float16(1.1)
    values.flush()
    assert proof(resealed(half)).passed is False


def test_a_checkpoint_that_is_not_known_here_is_named_with_the_way_out(
    copy: Bundle, dense: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SourceError, match=rf"{copy.manifest.source['name']}.*--model.*--no-proof"):
        checked(Bundle.open(copy.path), dense)


def test_another_checkpoint_is_refused(copy: Bundle, dense: Bundle, specs_5m: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(specs_5m, tmp_path / "other"))
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    with pytest.raises(SourceError, match="is not the checkpoint"):
        checked(copy, dense, model=other)


def test_fine_tuned_weights_under_the_same_config_are_another_checkpoint(
    copy: Bundle, specs_5m: Path, tmp_path: Path
) -> None:
    tuned = Path(shutil.copytree(specs_5m, tmp_path / "tuned"))
    data = bytearray((tuned / "model.safetensors").read_bytes())
    data[-1] ^= 1  # a mantissa bit of one fp16 weight
    (tuned / "model.safetensors").write_bytes(data)
    with pytest.raises(SourceError, match=r"is not the checkpoint .*the weights differ"):
        checked(copy, copy, model=tuned)
    with pytest.raises(BundleError, match=r"was not exported from the checkpoint .*the weights differ"):
        checked(copy, export(tuned, tmp_path / "other"))


def test_the_dense_bundle_of_another_model_is_refused(copy: Bundle, tiny_models: Path, tmp_path: Path) -> None:
    other = export(tiny_models / "llama" / "checkpoint", tmp_path / "other")
    with pytest.raises(BundleError, match="was not exported from the checkpoint"):
        checked(copy, other)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_other_families_pass(tiny_models: Path, tmp_path: Path, family: str) -> None:
    made = export(tiny_models / family / "checkpoint", tmp_path / family)
    assert checked(made, made)["graph"]["passed"] is True


@pytest.mark.parametrize("spelling", [
    {"rope_theta": 500.0}, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
])
def test_a_rope_base_of_its_own_reaches_the_graph(tiny_models: Path, tmp_path: Path, spelling: dict[str, Any]) -> None:
    """transformers 5 moves rope_theta into rope_parameters; graph and reference must read either spelling alike."""
    source = tiny_models / "llama" / "checkpoint"
    model = Path(shutil.copytree(source, tmp_path / "model"))
    config = {k: v for k, v in json.loads((model / "config.json").read_text()).items() if "rope" not in k}
    (model / "config.json").write_text(json.dumps(config | spelling))
    made = export(model, tmp_path / "bundle")
    assert checked(made, made)["graph"]["passed"] is True
