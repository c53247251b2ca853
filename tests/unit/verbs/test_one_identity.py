"""Every verb says the same of one input: what it is, at once, and what to give in its place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file

import foldrank
from foldrank.errors import FoldrankError, GraphNotRecognized, SourceError
from foldrank.verbs.export import export
from foldrank.verbs.inspect import inspect

METHODS = ["shortgpt:keep=0.8"]


@pytest.fixture
def checkpoint(tiny_models: Path, tmp_path: Path) -> Path:
    made = Path(shutil.copytree(tiny_models / "llama" / "checkpoint", tmp_path / "model"))
    for path in made.iterdir():
        path.chmod(0o644)
    return made


@pytest.fixture
def graph(tiny_models: Path) -> onnx.ModelProto:
    return onnx.load(tiny_models / "llama" / "optimum" / "model.onnx")


def said(verbs: list[Callable[[], Any]], kind: type[FoldrankError]) -> set[str]:
    """What the verbs say, each of which must refuse in that way."""
    found = set()
    for verb in verbs:
        with pytest.raises(kind) as raised:
            verb()
        found.add(f"{raised.value.what}; {raised.value.remedy}")
    return found


def of_checkpoint(path: Path, out: Path) -> set[str]:
    return said([lambda: inspect(path), lambda: export(path, out), lambda: foldrank.plan(path, methods=METHODS),
                 lambda: foldrank.compress(path, out, methods=METHODS)], SourceError)


def of_graph(model: onnx.ModelProto, tiny_models: Path, folder: Path) -> set[str]:
    onnx.save(model, folder / "model.onnx")
    given = tiny_models / "llama" / "checkpoint"
    return said([lambda: inspect(folder / "model.onnx"),
                 lambda: export(given, folder / "out", exporter="optimum", graph=folder / "model.onnx")],
                GraphNotRecognized)


@pytest.mark.parametrize(("config", "says"), [
    ({"quant_method": "gptq", "bits": 4}, "gptq"), ({"quant_method": "awq", "bits": 4}, "awq"),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
    ({"quant_method": "compressed-tensors", "format": "int-quantized"}, "compressed-tensors"),
])
def test_a_quantised_checkpoint_is_named_by_its_config(
    checkpoint: Path, tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    whole = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**whole, "quantization_config": config}))
    assert of_checkpoint(checkpoint, tmp_path / "out") == {
        f"the weights are quantised ({says}); give the checkpoint from before that"}


@pytest.mark.parametrize(("suffix", "dtype", "says"), [
    (".qweight", np.int32, "GPTQ or AWQ: it holds model.layers.0.mlp.up_proj.qweight"),
    (".weight", np.int8, "model.layers.0.mlp.up_proj.weight is stored as int8"),
    (".SCB", np.float32, "bitsandbytes int8: it holds model.layers.0.mlp.up_proj.SCB"),
])
def test_a_quantised_checkpoint_is_named_by_its_tensors(
    checkpoint: Path, tmp_path: Path, suffix: str, dtype: Any, says: str
) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    whole = tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_file({**tensors, f"model.layers.0.mlp.up_proj{suffix}": whole.astype(dtype)}, checkpoint / "model.safetensors")
    assert of_checkpoint(checkpoint, tmp_path / "out") == {
        f"the weights are quantised ({says}); give the checkpoint from before that"}


@pytest.mark.parametrize("name", ["model.gguf", "model.onnx", "model.bin"])
def test_a_gguf_file_is_one_whatever_it_is_called(name: str, tiny_models: Path, tmp_path: Path) -> None:
    path, given = tmp_path / name, tiny_models / "llama" / "checkpoint"
    path.write_bytes(b"GGUF\3\0\0\0")
    assert of_checkpoint(path, tmp_path / "out") == {"bad GGUF file: truncated; fetch the file again"}
    assert said([lambda: export(given, tmp_path / "out", exporter="optimum", graph=path)], SourceError) == {
        "is a GGUF file, a checkpoint and no graph; give it in a checkpoint's place"}


def test_a_merged_graph_is_named(graph: onnx.ModelProto, tiny_models: Path, tmp_path: Path) -> None:
    """As optimum's older versions merged them: one flag, an If, a decoder in each branch."""
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, [None])
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [2, 2], [1.0] * 4) for name in ("a", "b")]
    product = helper.make_node("MatMul", ["a", "b"], ["made"], "inner")
    branch = helper.make_graph([product], "branch", [], [made], weights)
    graph.graph.input.append(helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]))
    graph.graph.node.append(helper.make_node("If", ["use_cache_branch"], ["chosen"], "choice", then_branch=branch,
                                             else_branch=branch))
    found = of_graph(graph, tiny_models, tmp_path)
    assert len(found) == 1
    assert "is a merged graph: an If chooses between two decoders" in found.pop()


def test_half_precision_inside_fp32_borders_is_named(graph: onnx.ModelProto, tiny_models: Path, tmp_path: Path) -> None:
    float16 = pytest.importorskip("onnxruntime.transformers.float16")
    (found,) = of_graph(float16.convert_float_to_float16(graph, keep_io_types=True), tiny_models, tmp_path)
    assert found.startswith("computes in half precision inside fp32 inputs and outputs: a Cast behind past_key_values.")


def test_half_precision_throughout_is_a_decoder(graph: onnx.ModelProto, tmp_path: Path) -> None:
    float16 = pytest.importorskip("onnxruntime.transformers.float16")
    onnx.save(float16.convert_float_to_float16(graph), tmp_path / "model.onnx")
    assert {row["dtype"] for row in inspect(tmp_path / "model.onnx")["sites"]} == {"fp16"}


def test_inspect_names_the_axes(tiny_models: Path) -> None:
    axes = inspect(tiny_models / "llama" / "optimum" / "model.onnx")["axes"]
    assert axes["input_ids"] == ["batch_size", "sequence_length"]
    assert axes["past_key_values.0.key"] == ["batch_size", 2, "past_sequence_length", 16]
    assert axes["logits"][-1] == 260
    assert len(axes) == 3 + 1 + 6 * 4
