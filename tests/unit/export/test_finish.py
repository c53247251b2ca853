"""What is added to the builder's output: names, shapes and files, without touching a weight."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from foldrank import strictjson
from foldrank.errors import ExportError
from foldrank.export.finish import finish_files, finish_graph
from foldrank.model.checkpoint import Checkpoint

GENAI = {"model": {"context_length": 64, "decoder": {"head_size": 16, "session_options": {"provider_options": []}}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One Identity from a cache to a cache, the weight beside it in a file that is not there: nobody may read it."""
    shape = ["batch_size", 2, "past", "kv_cache_dim"]
    past, present = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)
                     for n in ("past_key_values.0.key", "present.0.key"))
    weight = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "model.onnx.data"), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    node = helper.make_node("Identity", ["past_key_values.0.key"], ["present.0.key"])
    onnx.save(helper.make_model(helper.make_graph([node], "main_graph", [past], [present], [weight])),
              tmp_path / "model.onnx")
    (tmp_path / "genai_config.json").write_text(json.dumps(GENAI))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    return tmp_path


def graph(folder: Path) -> onnx.GraphProto:
    return onnx.load(folder / "model.onnx", load_external_data=False).graph


def test_cache_shapes_get_the_real_head_size_and_weights_stay_outside(folder: Path) -> None:
    finish_graph(folder, "0" * 64)
    for port in (*graph(folder).input, *graph(folder).output):
        assert port.type.tensor_type.shape.dim[-1].dim_value == 16
        length = "past_sequence_length" if port.name.startswith("past") else "total_sequence_length"
        assert port.type.tensor_type.shape.dim[2].dim_param == length
    assert {e.key: e.value for e in graph(folder).initializer[0].external_data}["location"] == "model.onnx.data"


def test_the_name_follows_graph_and_weights(folder: Path) -> None:
    before = (folder / "model.onnx").read_bytes()
    names = []
    for digest in ("0" * 64, "0" * 64, "1" * 64):
        (folder / "model.onnx").write_bytes(before)
        finish_graph(folder, digest)
        names.append(graph(folder).name)
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("foldrank_")


def test_an_output_that_nothing_computes_is_refused(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    del model.graph.node[:]
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(ExportError, match=r"nothing computes present\.0\.key"):
        finish_graph(folder, "0" * 64)


def test_files_of_the_checkpoint_come_along(folder: Path, specs_5m: Path) -> None:
    finish_files(folder, Checkpoint.open(specs_5m), "cpu")
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == (specs_5m / name).read_bytes()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["model_max_length"] == 64


def test_what_only_python_calls_json_is_written_as_json(folder: Path, specs_5m: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(specs_5m, tmp_path / "source"))
    for name in ("config.json", "generation_config.json"):
        told = json.loads((source / name).read_text()) | {"limit": [0.0, float("inf"), {"at": -float("inf")}]}
        (source / name).write_text("\ufeff" + json.dumps(told), encoding="utf-8")
    finish_files(folder, Checkpoint.open(source), "cpu")
    for name in ("config.json", "generation_config.json"):
        held = strictjson.read(folder / name)
        assert held["limit"] == [0.0, {"__float__": "Infinity"}, {"at": {"__float__": "-Infinity"}}]
        assert held == json.loads((specs_5m / name).read_text()) | {"limit": held["limit"]}


@pytest.mark.parametrize(("provider", "wanted"), [("cpu", []), ("cuda", [{"cuda": {}}])])
def test_the_provider_of_the_bundle_is_written(folder: Path, specs_5m: Path, provider: str, wanted: list) -> None:
    finish_files(folder, Checkpoint.open(specs_5m), provider)
    config = json.loads((folder / "genai_config.json").read_text())
    options = config["model"]["decoder"]["session_options"]
    assert options["provider_options"] == wanted
    assert options.get("intra_op_num_threads") == (0 if provider == "cpu" else None)  # 0: every physical core
