"""Real exports: whole bundles that load unmodified in ONNX Runtime and onnxruntime-genai; bad sources are refused."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from foldrank.bundle.bundle import Bundle
from foldrank.errors import ExportError, SourceError
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.providers.provider import resolve
from foldrank.verbs.export import export
from foldrank.verbs.run import run

FILES = {"model.onnx", "model.onnx.data", "genai_config.json", "config.json", "generation_config.json",
         "tokenizer.json", "tokenizer_config.json", "README.md"}


@pytest.fixture(scope="module")
def dense(dense_5m: Path) -> Bundle:
    return Bundle.open(dense_5m)


def test_the_bundle_holds_what_the_contract_says(dense: Bundle, specs_5m: Path) -> None:
    assert set(dense.manifest.files) == FILES
    assert {p.name for p in dense.path.iterdir()} == FILES | {"manifest.json"}
    assert "path" not in dense.manifest.source
    assert dense.manifest.source["architecture"] == "LlamaForCausalLM"
    assert (dense.manifest.exporter, dense.manifest.dtype) == ("genai", "fp32")


def test_the_graph_has_the_common_names_and_real_head_sizes(dense: Bundle) -> None:
    graph = onnx.load(dense.model, load_external_data=False).graph
    cache = {f"past_key_values.{n}.{part}" for n in range(12) for part in ("key", "value")}
    assert {port.name for port in graph.input} == {"input_ids", "attention_mask"} | cache
    assert {port.type.tensor_type.shape.dim[-1].dim_value for port in graph.input if port.name in cache} == {32}
    assert graph.name.startswith("foldrank_")


def test_onnxruntime_genai_continues_real_text(dense: Bundle) -> None:
    pieces: list[str] = []
    found = run(dense, "This proposal adds", max_new_tokens=24, threads=1, stream=pieces.append)
    assert found["engine"] == "onnxruntime-genai"
    assert len(found["tokens"]) <= 24
    assert "".join(pieces) == found["text"]
    assert " the " in found["text"]


def test_onnxruntime_alone_writes_the_same_text(dense: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = run(dense, "This proposal adds", max_new_tokens=24, threads=1)
    find = importlib.util.find_spec
    without = {"onnxruntime_genai"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in without else find(name, *a))
    found = run(dense, "This proposal adds", max_new_tokens=24, threads=1)
    assert found["engine"] == "onnxruntime"
    assert (found["tokens"], found["text"]) == (wanted["tokens"], wanted["text"])


def test_sampling_is_repeatable_by_its_seed(dense: Bundle) -> None:
    first, again, other = (run(dense, "We", temperature=1.0, max_new_tokens=16, seed=s, threads=1) for s in (1, 1, 2))
    assert first["tokens"] == again["tokens"] != other["tokens"]


def test_half_precision_keeps_the_graph_and_runs_on_the_cpu(specs_5m: Path, dense: Bundle, tmp_path: Path) -> None:
    half = export(specs_5m, tmp_path / "half", dtype="fp16")
    ops = [[node.op_type for node in onnx.load(b.model, load_external_data=False).graph.node] for b in (dense, half)]
    assert ops[0] == ops[1]
    ids = np.arange(1, 33)[None]
    logits = [OrtDecoder.open(b.path, resolve("cpu"), threads=1).prefill(ids) for b in (dense, half)]
    assert np.abs(logits[0] - logits[1]).max() < 0.01 * np.abs(logits[0]).max()
    assert not np.array_equal(logits[0], logits[1])


def test_a_bundle_for_cuda_is_written_without_such_a_device(specs_5m: Path, tmp_path: Path) -> None:
    made = export(specs_5m, tmp_path / "cuda", dtype="bf16", provider="CUDAExecutionProvider")
    options = made.json("genai_config.json")["model"]["decoder"]["session_options"]["provider_options"]
    assert [list(entry) for entry in options] == [["cuda"]]


def test_a_graph_the_builder_leaves_broken_is_refused(specs_5m: Path, tmp_path: Path) -> None:
    """fp32 for CUDA: builder 0.18 declares cache outputs that nothing computes."""
    with pytest.raises(ExportError, match=r"nothing computes present.*--dtype fp16"):
        export(specs_5m, tmp_path / "out", provider="cuda")
    assert list(tmp_path.iterdir()) == []


def altered(specs_5m: Path, folder: Path, **changes: object) -> Path:
    model = Path(shutil.copytree(specs_5m, folder / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **changes}))
    return model


def test_a_weight_that_is_nan_is_named_and_nothing_is_left(specs_5m: Path, tmp_path: Path) -> None:
    model = altered(specs_5m, tmp_path)
    weights = load_file(model / "model.safetensors")
    weights["model.layers.5.mlp.up_proj.weight"][3, 3] = np.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"layers\.5\.mlp\.up_proj\.weight holds NaN"):
        export(model, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_an_unknown_architecture_is_refused(specs_5m: Path, tmp_path: Path) -> None:
    model = altered(specs_5m, tmp_path, architectures=["NobodyForCausalLM"])
    with pytest.raises(ExportError, match=r"NobodyForCausalLM.*LlamaForCausalLM"):
        export(model, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_an_output_that_exists_stays_as_it_is(specs_5m: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep me")
    with pytest.raises(SourceError, match="--force"):
        export(specs_5m, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "keep me"


@pytest.mark.parametrize("options", [{"dtype": "int4"}, {"exporter": "magic"}])
def test_wrong_options_are_wrong_use(specs_5m: Path, tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="no "):
        export(specs_5m, tmp_path / "out", **options)
