"""package: the layout of another tool, whole or not at all, with the weights as they were."""

import hashlib
import json
import os
import shutil
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from click.testing import CliRunner
from synthetic import PlanMaker
from synthetic.bundles import write_bundle
from synthetic.decoders import Shape, random_decoder

import foldrank
from foldrank.bundle.bundle import Bundle, seal
from foldrank.cli.main import cli
from foldrank.digests import sha256_file
from foldrank.errors import BundleError, ExportError, ProviderUnavailable, SourceError
from foldrank.verbs.formats import FORMATS, transformers_js
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
    with pytest.raises(ValueError, match=r"no format 'tgz'; one of transformers\.js, triton"):
        package(bundle.path, tmp_path / "js", format="tgz")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_multi_lora_asks_for_an_adapter_and_for_numbers_that_it_can_hand_over(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no adapter beside its weights"):
        package(bundle, tmp_path / "lora", format="multi-lora")
    with pytest.raises(ExportError, match="bf16"):
        package(resealed(bundle.path, dtype="bf16"), tmp_path / "lora", format="multi-lora")


def test_every_format_of_the_table_can_be_imported_and_is_in_the_help() -> None:
    assert all(callable(kind.writer()) for kind in FORMATS.values())
    help_text = " ".join(CliRunner().invoke(cli, ["package", "--help"]).output.split())
    assert all(name in help_text for name in FORMATS)


def test_the_command_line_prints_one_json_object(bundle: Bundle, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["package", str(bundle.path), "--format", "transformers.js", "-o",
                                    str(tmp_path / "js"), "--json", "-q"])
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.exit_code, found["format"], found["output"]) == (0, "transformers.js", str(tmp_path / "js"))
    assert len(found["files"]) == 6


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_zip_unpacks_to_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    found = package(bundle, tmp_path / "one.zip", format="zip")
    archive = tmp_path / "one.zip"
    assert found["files"] == {"one.zip": {"sha256": sha256_file(archive), "bytes": archive.stat().st_size}}
    with zipfile.ZipFile(archive) as held:
        assert held.testzip() is None
        held.extractall(tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(bundle.path)
    foldrank.verify(tmp_path / "again")


def test_an_oci_layout_holds_the_bundles_files_under_their_digests(bundle: Bundle, tmp_path: Path) -> None:
    package(bundle, tmp_path / "one.tar", format="oci")
    with tarfile.open(tmp_path / "one.tar") as tar:
        held = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert json.loads(held["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    blobs = {name.rpartition("/")[2]: data for name, data in held.items() if name.startswith("blobs/sha256/")}
    assert all(hashlib.sha256(data).hexdigest() == digest for digest, data in blobs.items())
    [entry] = json.loads(held["index.json"])["manifests"]
    manifest = json.loads(blobs[entry["digest"].removeprefix("sha256:")])
    assert entry["size"] == len(blobs[entry["digest"].removeprefix("sha256:")])
    layers = {layer["annotations"]["org.opencontainers.image.title"]: layer for layer in manifest["layers"]}
    wanted = files_of(bundle.path)
    assert {name: blobs[layer["digest"].removeprefix("sha256:")] for name, layer in layers.items()} == wanted
    assert {name: layer["size"] for name, layer in layers.items()} == {n: len(data) for n, data in wanted.items()}
    assert blobs[manifest["config"]["digest"].removeprefix("sha256:")] == b"{}"


@pytest.mark.parametrize("format", ["zip", "docker"])
def test_a_whole_bundle_may_go_without_its_plan(tmp_path: Path, format: str) -> None:
    decoder = random_decoder(Shape())
    dense = write_bundle(decoder, tmp_path / "dense")
    made = PlanMaker(decoder, dense.manifest.source["config_sha256"]).fold((1, 2), {1: 0.0, 2: 1.0})
    (tmp_path / "plan").mkdir()
    made.plan().write(tmp_path / "plan")
    small = foldrank.apply(dense, tmp_path / "plan", tmp_path / "small")
    before, out = sorted(path.name for path in tmp_path.iterdir()), tmp_path / "out"
    foldrank.package(small, out, format=format, plan=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "out"]), "nothing lies beside it"
    if format == "zip":
        zipfile.ZipFile(out).extractall(tmp_path / "unpacked")
    light = Bundle.open(tmp_path / "unpacked" if format == "zip" else out / "bundle")
    assert small.plan is not None
    assert light.plan is None
    kept = {name: entry for name, entry in small.manifest.files.items() if not name.startswith("plan/")}
    assert light.manifest.files == kept
    assert len(kept) < len(small.manifest.files)
    with pytest.raises(BundleError, match="its plan was left out"):
        foldrank.validate(light, reference=dense)
    assert Bundle.open(small.path).manifest == small.manifest


def test_a_file_in_the_bundle_itself_is_refused_without_its_plan_too(bundle: Bundle) -> None:
    before = sorted(bundle.path.iterdir())
    with pytest.raises(SourceError):
        package(bundle, bundle.path / "one.zip", format="zip", plan=False)
    assert sorted(bundle.path.iterdir()) == before


@pytest.mark.parametrize("format", ["zip", "oci"])
def test_one_file_has_the_same_bytes_wherever_and_whenever(
    format: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle.path, tmp_path / "elsewhere" / "named otherwise", copy_function=shutil.copyfile)
    for path in (tmp_path / "elsewhere").rglob("*"):
        os.utime(path, (1, 1))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    package(bundle, tmp_path / "a", format=format)
    package(tmp_path / "elsewhere" / "named otherwise", tmp_path / "b", format=format)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_exists_stays_without_force_and_none_lands_in_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(SourceError, match="exists already"):
        package(bundle, tmp_path / "mine", format="zip")
    assert (tmp_path / "mine").read_text() == "mine"
    package(bundle, tmp_path / "mine", format="zip", force=True)
    assert zipfile.is_zipfile(tmp_path / "mine")
    with pytest.raises(SourceError, match="lies in the bundle"):
        package(bundle, bundle.path / "one.zip", format="zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "mine"]


def test_what_changes_while_it_is_copied_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    opened = Bundle.open(bundle.path)
    (bundle.path / "config.json").write_text("{}")
    for format in ("zip", "oci", "docker"):
        with pytest.raises(BundleError, match="changed while"):
            package(opened, tmp_path / "out", format=format)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_docker_serves_the_bundle_after_its_checks(bundle: Bundle, tmp_path: Path) -> None:
    package(bundle, tmp_path / "image", format="docker")
    assert files_of(tmp_path / "image" / "bundle") == files_of(bundle.path)
    entry = tmp_path / "image" / "entry.sh"
    assert os.access(entry, os.X_OK)
    commands = [line for line in entry.read_text().splitlines() if line.startswith(("foldrank", "exec"))]
    assert [line.replace("exec ", "").split()[1] for line in commands] == ["verify", "serve"]
    for line in commands:  # the options that it gives are the command's
        verb = cli.get_command(None, line.replace("exec ", "").split()[1])  # type: ignore[arg-type]
        known = {option for parameter in verb.params for option in parameter.opts}  # type: ignore[union-attr]
        assert {word for word in line.split() if word.startswith("--")} <= known
    dockerfile = (tmp_path / "image" / "Dockerfile").read_text()
    assert "USER foldrank" in dockerfile
    assert f"=={foldrank.__version__}" in dockerfile


def test_ort_format_computes_what_the_bundle_does(bundle: Bundle, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    package(bundle, tmp_path / "ort", format="ort")
    assert (tmp_path / "ort" / "model.ort").read_bytes()[4:8] == b"ORTM"
    logits = []
    for path in (bundle.model, tmp_path / "ort" / "model.ort"):
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feeds = {"input_ids": np.array([[1, 2, 3]]), "attention_mask": np.ones((1, 3), np.int64)}
        feeds |= {i.name: np.zeros((1, Shape().kv_heads, 0, Shape().head_size), np.float32)
                  for i in session.get_inputs() if i.name.startswith("past")}
        logits.append(session.run(["logits"], {i.name: feeds[i.name] for i in session.get_inputs()})[0])
    assert np.abs(logits[0] - logits[1]).max() <= 1e-5 * np.abs(logits[0]).max()
    assert "GroupQueryAttention" in (tmp_path / "ort" / "required_operators.config").read_text()
    assert str(tmp_path) not in (tmp_path / "ort" / "required_operators.config").read_text()


def test_a_missing_library_is_named_with_its_extra(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foldrank.installed._installed", lambda name: name != "mlflow")
    with pytest.raises(ProviderUnavailable, match=r"mlflow: is not installed; pip install 'foldrank\[mlflow\]'"):
        package(bundle, tmp_path / "out", format="mlflow")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
