"""Graphs of standard operators, exported or adopted: bundles whose logits are PyTorch's, and which genai loads."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nightly import NIGHTLY
from tiny_families import TINY, save

from foldrank.bundle.bundle import Bundle
from foldrank.bundle.configs import context_length, head_size
from foldrank.errors import ExportError, NotWritable, UnsafeModel
from foldrank.export.exporters import run_exporter
from foldrank.graph.summary import summary_of
from foldrank.model.checkpoint import Checkpoint
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.providers.provider import resolve
from foldrank.runtime.providers.tensorrt import refuse_unknown_operators
from foldrank.runtime.providers.tensorrt_profile import Ranges, profile
from foldrank.verbs.export import export
from foldrank.verbs.run import run

FAMILIES = ("llama", "mistral", "qwen2", "gemma2", "gpt2", "opt")
TOLERANCE = 1e-4
"""Of the largest logit: float32 through some six blocks, summed in another order."""


def torch_logits(checkpoint: Path, ids: np.ndarray, mask: np.ndarray, capped: bool) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    settings: dict[str, Any] = {} if capped else {"attn_logit_softcapping": None}
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager", **settings
    ).eval()
    positions = torch.from_numpy(np.maximum(mask.cumsum(1) - 1, 0))
    options: dict[str, Any] = {} if model.config.model_type == "opt" else {"position_ids": positions}
    with torch.no_grad():
        return model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), **options).logits.numpy()


def error(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(np.abs(wanted - found).max() / np.abs(wanted).max())


def check_logits(bundle: Bundle, checkpoint: Path, *, padded: bool, capped: bool = True) -> None:
    ids = np.random.default_rng(0).integers(1, 250, (2, 12))
    ones = np.ones_like(ids)
    wanted = torch_logits(checkpoint, ids, ones, capped)
    decoder = OrtDecoder.open(bundle.path, resolve("cpu"), threads=1)
    assert error(wanted, decoder.prefill(ids)) < TOLERANCE
    assert error(wanted * 1.01, decoder.prefill(ids)) > TOLERANCE
    steps = [decoder.prefill(ids[:, :5]), *(decoder.step(ids[:, a:b]) for a, b in ((5, 9), (9, 10), (10, 12)))]
    assert error(wanted, np.concatenate(steps, axis=1)) < TOLERANCE
    if padded:
        mask = ones.copy()
        mask[0, :4] = 0
        wanted, found = torch_logits(checkpoint, ids, mask, capped), decoder.prefill(ids, mask)
        assert error(wanted[mask == 1], found[mask == 1]) < TOLERANCE


def check_ports(bundle: Bundle, blocks: int) -> None:
    graph = onnx.load(bundle.model, load_external_data=False).graph
    cache = {f"{n}.{part}" for n in range(blocks) for part in ("key", "value")}
    assert {p.name for p in graph.input} - {"attention_mask", "position_ids"} == {
        "input_ids", *(f"past_key_values.{c}" for c in cache)}
    assert {p.name for p in graph.output} == {"logits", *(f"present.{c}" for c in cache)}
    sizes = [p.type.tensor_type.shape.dim for p in graph.input if p.name.startswith("past")]
    assert {(dims[1].dim_value > 0, dims[3].dim_value) for dims in sizes} == {(True, 16)}
    assert graph.name.startswith("foldrank_")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_optimum_graph_is_adopted_as_it_is(family: str, tiny_models: Path, tmp_path: Path) -> None:
    source = tiny_models / family
    made = export(source / "checkpoint", tmp_path / "out", exporter="optimum", graph=source / "optimum")
    check_ports(made, 5 if family in ("mistral", "qwen2", "gpt2", "opt") else 6)
    # The gpt2 graph has lost its mask, and with it any notion of padding; optimum traced gemma2 through SDPA, which
    # leaves the soft cap of attention out.
    check_logits(made, source / "checkpoint", padded=family not in ("gpt2", "gemma2"),
                 capped=family != "gemma2")
    found = run(made, "hello", max_new_tokens=8, threads=1)
    assert (found["engine"], len(found["tokens"])) == ("onnxruntime-genai", 8)


def test_a_bundle_for_tensorrt_is_of_standard_operators_and_tells_genai_cuda(tiny_models: Path, tmp_path: Path) -> None:
    source = tiny_models / "llama"
    options = {"dtype": "fp32", "provider": "tensorrt"}
    with pytest.raises(NotWritable, match="cpu and cuda only"):
        run_exporter("genai", Checkpoint.open(source / "checkpoint"), tmp_path, **options)
    made = export(source / "checkpoint", tmp_path / "out", exporter="optimum", graph=source / "optimum", **options)
    check_shapes_for_tensorrt(made)
    decoder = made.json("genai_config.json")["model"]["decoder"]
    assert decoder["session_options"]["provider_options"] == [{"cuda": {}}]


def check_shapes_for_tensorrt(bundle: Bundle) -> None:
    """No operator that TensorRT cannot parse, and a shape profile for every input."""
    graph = summary_of(bundle.model)
    refuse_unknown_operators(bundle.model, graph)
    ranges = Ranges.of({}, lambda: context_length(bundle.path))
    for text in profile(bundle.model, graph.inputs, ranges, lambda: head_size(bundle.path)).values():
        assert [entry.split(":")[0] for entry in text.split(",")] == list(graph.inputs)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", *(pytest.param(family, marks=NIGHTLY) for family in ("gemma2", "gpt2"))])
def test_transformers_exporters_make_a_bundle(
    family: str, tiny_models: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    checkpoint = tiny_models / family / "checkpoint"
    if family == "llama":
        made = Bundle.open(request.getfixturevalue("traced_llama"))
    else:
        made = export(checkpoint, tmp_path / "out", exporter="transformers")
    check_ports(made, 5 if family == "gpt2" else 6)
    assert {"attention_mask", "position_ids"} <= {
        p.name for p in onnx.load(made.model, load_external_data=False).graph.input}
    check_logits(made, checkpoint, padded=True)
    check_shapes_for_tensorrt(made)
    assert len(run(made, "hello", max_new_tokens=8, threads=1)["tokens"]) == 8


@pytest.mark.slow
def test_optimum_makes_a_bundle_in_an_interpreter_of_its_own(specs_5m: Path, tmp_path: Path) -> None:
    if "FOLDRANK_OPTIMUM_PYTHON" not in os.environ:
        pytest.skip("FOLDRANK_OPTIMUM_PYTHON names no interpreter with optimum-onnx")
    made = export(specs_5m, tmp_path / "out", exporter="optimum")
    check_logits(made, specs_5m, padded=True)
    assert " the " in run(made, "This proposal adds", max_new_tokens=24, threads=1)["text"]


def test_without_optimum_the_way_to_it_is_told(
    specs_5m: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FOLDRANK_OPTIMUM_PYTHON", raising=False)
    monkeypatch.setattr("foldrank.export.standard.missing", list)
    with pytest.raises(ExportError, match=r"optimum-onnx==0\.1\.0.*transformers==4\.57\.6"):
        export(specs_5m, tmp_path / "out", exporter="optimum")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("other", "reason"), [("mistral", "beyond those of a decoder of 5"), ("gemma2", "embedding")])
def test_a_graph_of_another_checkpoint_is_refused(other: str, reason: str, tiny_models: Path, tmp_path: Path) -> None:
    tiny = tiny_models
    with pytest.raises(ExportError, match=reason):
        export(tiny / other / "checkpoint", tmp_path / "out", exporter="optimum", graph=tiny / "llama" / "optimum")
    assert list(tmp_path.iterdir()) == []


def test_an_adopted_graph_has_the_dtype_it_has(tiny_models: Path, tmp_path: Path) -> None:
    tiny = tiny_models / "llama"
    with pytest.raises(ExportError, match="is fp32, not fp16; --dtype fp32"):
        export(tiny / "checkpoint", tmp_path / "out", exporter="optimum", graph=tiny / "optimum", dtype="fp16")
    with pytest.raises(ValueError, match="which exporter made"):
        export(tiny / "checkpoint", tmp_path / "out", graph=tiny / "optimum")


@pytest.mark.parametrize("exporter", ["transformers", "optimum"])
def test_bfloat16_is_refused_because_it_cannot_be_proved(exporter: str, specs_5m: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no bfloat16 kernels for the CPU"):
        export(specs_5m, tmp_path / "out", exporter=exporter, dtype="bf16")
    assert list(tmp_path.iterdir()) == []


def test_optimum_is_not_asked_for_attention_that_it_would_change(tiny_models: Path, tmp_path: Path) -> None:
    checkpoint = tiny_models / "gemma2" / "checkpoint"
    with pytest.raises(ExportError, match="which optimum-onnx leaves out; --exporter transformers or genai"):
        export(checkpoint, tmp_path / "out", exporter="optimum")
    falcon = save(TINY["falcon-alibi"], tmp_path / "falcon")
    with pytest.raises(ExportError, match=r"ALiBi\) in bfloat16.* 256 tokens on; --exporter transformers"):
        export(falcon, tmp_path / "out", exporter="optimum")
    assert [path.name for path in tmp_path.iterdir()] == ["falcon"]


@NIGHTLY
def test_alibi_is_rounded_to_bfloat16_as_in_pytorch_where_that_rounds(tmp_path: Path) -> None:
    """From 257 tokens on not every position is a bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM

    checkpoint = save(TINY["falcon-alibi"], tmp_path / "falcon")
    decoder = OrtDecoder.open(export(checkpoint, tmp_path / "out").path, resolve("cpu"), threads=1)
    network = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="sdpa")
    ids = np.random.default_rng(0).integers(1, 250, (1, 400))
    with torch.no_grad():
        wanted = network(torch.from_numpy(ids)).logits.numpy()
    assert error(wanted, decoder.prefill(ids)) < TOLERANCE


def test_a_damaged_graph_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    tiny = tiny_models / "llama"
    bad = Path(shutil.copytree(tiny / "optimum", tmp_path / "bad")) / "model.onnx"
    bad.write_bytes(bad.read_bytes()[:5000])
    with pytest.raises(UnsafeModel):
        export(tiny / "checkpoint", tmp_path / "out", exporter="optimum", graph=bad.parent)
