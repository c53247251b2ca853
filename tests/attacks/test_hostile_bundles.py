"""A bundle from a stranger, under every verb that opens one: refused by name or harmless, and no code of it runs.

The code that it brings is real: a shared object and a Python module that write a marker file when they are loaded.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from foldrank.bundle.bundle import seal
from foldrank.cli.main import main

GENAI: dict[str, Any] = {"model": {"type": "llama", "context_length": 8, "vocab_size": 9, "decoder": {
    "filename": "model.onnx", "session_options": {"log_id": "onnxruntime-genai", "provider_options": []}}}}
CONFIG: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 9}


def _session(**options: Any) -> dict[str, str]:
    config = json.loads(json.dumps(GENAI))
    config["model"]["decoder"]["session_options"] |= options
    return {"genai_config.json": json.dumps(config)}


def _config(**more: Any) -> dict[str, str]:
    return {"config.json": json.dumps({**CONFIG, **more})}


def _tokenizer(**more: Any) -> dict[str, str]:
    return {"tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **more})}


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "a library of its own, beside it": (_session(custom_ops_library="library.so"), "custom_ops_library"),
    "a library of its own, anywhere": (_session(custom_ops_library="HERE/library.so"), "custom_ops_library"),
    "a library under a provider": (
        _session(provider_options=[{"QNN": {"backend_path": "library.so"}}]), "provider_options"),
    "a provider's option": (_session(provider_options=[{"cpu": {"custom_ops_library": "library.so"}}]), "custom_ops"),
    "a profile outside": (_session(enable_profiling="OUT/profile"), "enable_profiling"),
    "a graph written outside": (
        _session(**{"session.optimized_model_filepath": "OUT/x.onnx"}), "optimized_model_filepath"),
    "weights from outside": (
        _session(**{"session.model_external_initializers_file_folder_path": "OUT"}), "initializers_file_folder_path"),
    "a context file": (_session(**{"ep.context_file_path": "OUT/x.onnx"}), "context_file_path"),
    "config code": (_config(auto_map={"AutoConfig": "evil.Config"}), "auto_map"),
    "config code, nested": (_config(text_config={"auto_map": {"AutoConfig": "evil.Config"}}), "text_config.auto_map"),
    "trust, nested": (_config(text_config={"sub": [{"trust_remote_code": True}]}), "sub.0.trust_remote_code"),
    "attention from a repository": (_config(_attn_implementation="evil/kernels"), "_attn_implementation"),
    "attention from a repository, nested": (
        _config(text_config={"attn_implementation": {"": "paged|evil/kernels:f"}}), "text_config.attn_implementation"),
    "quantisation that names code": (
        _config(quantization_config={"quant_method": "evil", "auto_map": {"x": "evil.Quantizer"}}), "auto_map"),
    "tokenizer code": (
        _tokenizer(tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", None]}), "auto_map"),
    "tokenizer code, repeated key": (
        {"tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["evil.Evil", null]}, "a": 1, "a": 2}'}, "auto_map"),
    "generation code": ({"generation_config.json": '{"custom_generate": "evil"}'}, "custom_generate"),
}
HARMLESS: dict[str, dict[str, str]] = {
    "a tokenizer class of that name": _tokenizer(tokenizer_class="evil.Evil"),
    "a quantisation of that name": _config(quantization_config={"quant_method": "evil", "modules": ["evil"]}),
    "a custom pipeline of nothing": _config(custom_pipelines={}),
}
VERBS: dict[str, list[str]] = {
    "inspect": ["inspect", "BUNDLE"], "diff": ["diff", "BUNDLE", "BUNDLE"], "report": ["report", "BUNDLE"],
    "validate": ["validate", "BUNDLE", "--reference", "BUNDLE", "--no-proof"],
    "bench": ["bench", "BUNDLE", "--baseline", "BUNDLE"], "selftest": ["selftest", "BUNDLE"],
    "run": ["run", "BUNDLE", "--prompt", "x"], "apply": ["apply", "BUNDLE", "PLAN", "-o", "OUT/small"],
    "verify": ["verify", "BUNDLE"], "sign": ["sign", "BUNDLE", "--private-key", "OUT/none"],
    "sbom": ["sbom", "BUNDLE", "-o", "OUT/bom.json"],
    "package": ["package", "BUNDLE", "--format", "transformers.js", "-o", "OUT/packed"],
    "compress": ["compress", "MODEL", "--dense", "BUNDLE", "--method", "slm:keep=0.9", "-o", "OUT/small"],
}
"""Those whose first argument, or --dense, is a bundle."""
FOLDERS: dict[str, list[str]] = {
    "plan": ["plan", "BUNDLE", "--method", "slm:keep=0.9", "-o", "OUT/plan"],
    "export": ["export", "BUNDLE", "-o", "OUT/dense"],
    "export --from": ["export", "MODEL", "--exporter", "optimum", "--from", "BUNDLE", "-o", "OUT/dense"],
    "compress it": ["compress", "BUNDLE", "--method", "slm:keep=0.9", "-o", "OUT/small"],
}
"""Those that take it for a checkpoint or a graph: they say that it is none."""


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with library.so and evil.py, each of which writes `marker` beside it when it is loaded."""
    folder = tmp_path_factory.mktemp("evil")
    writes = f"open({str(folder / 'marker')!r}, 'w').close()"
    (folder / "evil.py").write_text(f"{writes}\nConfig = Evil = Quantizer = dict\n")
    if compiler := shutil.which("cc"):
        code = f'#include <stdio.h>\n__attribute__((constructor)) void f() {{ fclose(fopen("{folder}/marker", "w")); }}'
        subprocess.run([compiler, "-shared", "-fPIC", "-xc", "-", "-o", str(folder / "library.so")], check=True,
                       input=code.encode())
    else:
        (folder / "library.so").write_bytes(b"no compiler here")
    return folder


def _seal(bundle: Path) -> None:
    """By whoever changed it, so that its digests hold."""
    (bundle / "manifest.json").unlink(missing_ok=True)
    seal(bundle, command="test", seed=0, source={}, exporter="genai", dtype="fp32", versions={})


def _bundle(folder: Path, evil: Path, files: dict[str, str], out: Path) -> Path:
    shutil.copytree(evil, folder)
    whole = {"model.onnx": "graph", "genai_config.json": json.dumps(GENAI), **_config(), **_tokenizer(),
             "tokenizer.json": "{}", **files}
    for name, text in whole.items():
        (folder / name).write_text(text.replace("HERE", str(evil)).replace("OUT", str(out)))
    _seal(folder)
    return folder


def _ends(arguments: list[str], bundle: Path, model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> int | str:
    named = {"BUNDLE": bundle, "MODEL": model, "PLAN": out / "plan"}
    given = [str(named.get(word, word)).replace("OUT", str(out)) for word in arguments]
    monkeypatch.setattr("foldrank.planfile.plan.Plan.read", lambda folder: None)  # apply reads its plan first
    monkeypatch.chdir(bundle)  # where `import evil` would find it
    with pytest.raises(SystemExit) as left:
        main(given)
    return left.value.code or 0


def test_the_stand_ins_work(evil: Path) -> None:
    marker = evil / "marker"
    loads = ["import evil", *(["import ctypes; ctypes.CDLL('./library.so')"] if shutil.which("cc") else [])]
    for program in loads:
        subprocess.run([sys.executable, "-c", program], cwd=evil, check=True)
        assert marker.is_file()
        marker.unlink()


@pytest.mark.parametrize("kind", REFUSED)
def test_code_in_a_bundle_is_refused_by_name_under_every_verb(
    kind: str, evil: Path, specs_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (out := tmp_path / "out").mkdir()
    files, says = REFUSED[kind]
    bundle = _bundle(tmp_path / "bundle", evil, files, out)
    before = sorted(bundle.rglob("*"))
    for verb, arguments in VERBS.items():
        assert _ends(arguments, bundle, specs_5m, out, monkeypatch) == 4, verb
        assert says in capsys.readouterr().err, verb
    assert not (evil / "marker").exists()
    assert list(out.iterdir()) == []
    assert sorted(bundle.rglob("*")) == before


@pytest.mark.parametrize("verb", FOLDERS)
@pytest.mark.parametrize("kind", ["config code", "tokenizer code", "a library of its own, beside it"])
def test_taken_for_a_checkpoint_or_a_graph_it_runs_nothing_either(
    kind: str, verb: str, evil: Path, specs_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (out := tmp_path / "out").mkdir()
    bundle = _bundle(tmp_path / "bundle", evil, REFUSED[kind][0], out)
    assert _ends(FOLDERS[verb], bundle, specs_5m, out, monkeypatch) in (3, 4)
    assert capsys.readouterr().err.startswith("error: ")
    assert not (evil / "marker").exists()
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_only_names_code_is_harmless(
    kind: str, evil: Path, dense_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A whole bundle, so that each verb goes as far as it does with an honest one."""
    bundle = tmp_path / "bundle"
    shutil.copytree(dense_5m, bundle)
    shutil.copytree(evil, bundle, dirs_exist_ok=True)
    for name, text in HARMLESS[kind].items():
        config = json.loads((bundle / name).read_text())
        (bundle / name).write_text(json.dumps({**config, **{k: v for k, v in json.loads(text).items()
                                                            if k not in CONFIG}}))
    _seal(bundle)
    (out := tmp_path / "out").mkdir()
    for verb in ("inspect", "diff", "run"):
        more = ["--max-new-tokens", "2"] if verb == "run" else []
        assert _ends([*VERBS[verb], *more], bundle, bundle, out, monkeypatch) in (0, 3), verb
    assert not (evil / "marker").exists()
    assert list(out.iterdir()) == []


GRAPHS: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "a function of its own": (lambda m: m.functions.append(helper.make_function(
        "evil", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [helper.make_opsetid("", 22)])),
        "functions"),
    "operators of a domain": (lambda m: m.opset_import.append(helper.make_opsetid("evil", 1)), "evil"),
    "weights from outside": (lambda m: _from_elsewhere(m), "location"),
}


def _from_elsewhere(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.external_data)
    next(e for e in tensor.external_data if e.key == "location").value = "../weights"


@pytest.mark.parametrize("verb", ["inspect", "validate", "bench", "selftest", "run"])
@pytest.mark.parametrize("kind", GRAPHS)
def test_no_runtime_opens_a_graph_that_the_safe_loader_refuses(
    kind: str, verb: str, dense_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(dense_5m, bundle)
    change, says = GRAPHS[kind]
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    change(model)
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    _seal(bundle)
    for opener in ("onnxruntime.InferenceSession", "onnxruntime_genai.Config", "onnxruntime_genai.Model"):
        monkeypatch.setattr(opener, None)
    assert _ends(VERBS[verb], bundle, bundle, tmp_path, monkeypatch) == 4
    assert says in capsys.readouterr().err
