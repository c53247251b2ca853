"""package: the layout of another tool, whole or not at all, with the weights as they were."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from click.testing import CliRunner
from synthetic.bundles import write_bundle
from synthetic.decoders import Shape, random_decoder

import foldrank
from foldrank.bundle.bundle import Bundle, seal
from foldrank.cli.main import cli
from foldrank.digests import sha256_file
from foldrank.errors import BundleError, ExportError, SourceError
from foldrank.verbs.formats import FORMATS, transformers_js, writer
from foldrank.verbs.package import package


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    made = write_bundle(random_decoder(Shape()), tmp_path / "bundle")
    (made.path / "LICENSE").write_text("MIT")
    return resealed(made.path)


def resealed(folder: Path, *, dtype: str = "fp32", **source: str) -> Bundle:
    old = json.loads((folder / "manifest.json").read_text())
    seal(folder, command="export", seed=0, source={**old["source"], **source}, exporter="genai", dtype=dtype,
         versions={})
    return Bundle.open(folder)


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t, str(path.parent)) for t in onnx.load(path).graph.initializer}


def test_transformers_js_gets_graph_data_config_tokenizer_and_licence(bundle: Bundle, tmp_path: Path) -> None:
    found = foldrank.package(bundle.path, tmp_path / "js", format="transformers.js")
    held = {p.relative_to(tmp_path / "js").as_posix() for p in (tmp_path / "js").rglob("*") if p.is_file()}
    assert held == set(found["files"]) == {"onnx/model.onnx", "onnx/model.onnx_data", "config.json", "tokenizer.json",
                                           "LICENSE", "README.md"}
    for name, entry in found["files"].items():
        path = tmp_path / "js" / name
        assert (sha256_file(path), path.stat().st_size) == (entry["sha256"], entry["bytes"])
    config = json.loads((tmp_path / "js" / "config.json").read_text())
    assert config.pop("transformers.js_config") == {"dtype": "fp32", "use_external_data_format": {"model.onnx": 1}}
    assert config == bundle.json("config.json")
    before, after = tensors(bundle.model), tensors(tmp_path / "js" / "onnx" / "model.onnx")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("most", [1, 1000, 20_000])
def test_weights_are_cut_at_tensors_and_named_in_a_row(
    most: int, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers_js, "SHARD_BYTES", most)
    package(bundle, tmp_path / "js", format="transformers.js")
    graph = tmp_path / "js" / "onnx" / "model.onnx"
    files = sorted(graph.parent.glob("model.onnx_data*"), key=lambda p: (len(p.name), p.name))
    assert [p.name for p in files] == ["model.onnx_data", *(f"model.onnx_data_{i}" for i in range(1, len(files)))]
    config = json.loads((tmp_path / "js" / "config.json").read_text())
    assert config["transformers.js_config"]["use_external_data_format"] == {"model.onnx": len(files)}
    sizes = [v.nbytes for v in tensors(bundle.model).values()]
    assert len(files) > 1
    assert all(p.stat().st_size <= max(most, max(sizes)) for p in files)
    before, after = tensors(bundle.model), tensors(graph)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_its_card_is_of_that_library_and_shows_how_it_loads(bundle: Bundle, tmp_path: Path) -> None:
    package(resealed(bundle.path, name="org/model", license="mit"), tmp_path / "js", format="transformers.js")
    text = (tmp_path / "js" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert (front["library_name"], front["license"], front["base_model"]) == ("transformers.js", "mit", "org/model")
    assert 'pipeline("text-generation"' in text
    assert "onnxruntime_genai" not in text
    assert "manifest.json" not in text


def test_an_output_that_exists_stays_without_force(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "js").mkdir()
    (tmp_path / "js" / "mine").write_text("mine")
    with pytest.raises(SourceError, match="exists already"):
        package(bundle, tmp_path / "js", format="transformers.js")
    assert (tmp_path / "js" / "mine").read_text() == "mine"
    package(bundle, tmp_path / "js", format="transformers.js", force=True)
    assert not (tmp_path / "js" / "mine").exists()


def test_what_the_format_cannot_hold_is_refused_and_leaves_nothing(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="bf16"):
        package(resealed(bundle.path, dtype="bf16"), tmp_path / "js", format="transformers.js")
    (bundle.path / "config.json").unlink()
    with pytest.raises(BundleError, match=r"no config\.json"):
        package(resealed(bundle.path), tmp_path / "js", format="transformers.js")
    with pytest.raises(ValueError, match=r"no format 'triton'; one of transformers\.js"):
        package(bundle.path, tmp_path / "js", format="triton")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_every_format_of_the_table_can_be_imported_and_is_in_the_help() -> None:
    assert all(callable(writer(name)) for name in FORMATS)
    help_text = " ".join(CliRunner().invoke(cli, ["package", "--help"]).output.split())
    assert all(name in help_text for name in FORMATS)


def test_the_command_line_prints_one_json_object(bundle: Bundle, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["package", str(bundle.path), "--format", "transformers.js", "-o",
                                    str(tmp_path / "js"), "--json", "-q"])
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.exit_code, found["format"], found["output"]) == (0, "transformers.js", str(tmp_path / "js"))
    assert len(found["files"]) == 6
