"""A bundle's configs are held to a closed list: nothing in them runs code or names a path."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foldrank import strictjson
from foldrank.bundle.bundle import Bundle, seal
from foldrank.bundle.genai_settings import settings
from foldrank.cli.main import main
from foldrank.errors import BundleError
from foldrank.runtime.decoding.genai import GenaiDecoder
from foldrank.runtime.providers.provider import Provider

SOUND: dict[str, Any] = {
    "model": {"type": "llama", "eos_token_id": [1, 2], "context_length": 8, "vocab_size": 9, "decoder": {
        "filename": "model.onnx", "head_size": 4, "inputs": {"past_key_names": "past_key_values.%d.key"},
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": [{"cuda": {"enable_cuda_graph": "0"}}]},
        "sliding_window": {"window_size": 4, "slide_inputs": False, "layers": [0, 2], "cache_slack": 0},
    }},
    "search": {"do_sample": False, "temperature": 1, "top_k": 50},
}


def _bundle(folder: Path, name: str, text: str) -> Path:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / name).write_text(text)
    seal(folder, command="test", seed=0, source={}, exporter="genai", dtype="fp32", versions={})
    return folder


def _with(change: Callable[[dict[str, Any]], object]) -> str:
    config = json.loads(json.dumps(SOUND))
    change(config)
    return json.dumps(config)


def _session(config: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = config["model"]["decoder"]["session_options"]
    return options


HOSTILE: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda c: _session(c).update(custom_ops_library="evil.so"), "custom_ops_library"),
    (lambda c: _session(c).update(enable_profiling="/tmp/x"), "enable_profiling"),
    (lambda c: _session(c).update({"session.optimized_model_filepath": "/tmp/x"}), "optimized_model_filepath"),
    (lambda c: _session(c).update(provider_options=[{"evil": {}}]), "evil"),
    (lambda c: _session(c).update(provider_options=[{"cuda": {"ep_library": "evil.so"}}]), "ep_library"),
    (lambda c: _session(c).update(provider_options=[{"cuda": {"device_id": "../evil.so"}}]), "device_id"),
    (lambda c: _session(c).update(log_id="/tmp/x"), "log_id"),
    (lambda c: _session(c).update(intra_op_num_threads="4"), "intra_op_num_threads"),
    (lambda c: c["model"]["decoder"].update(filename="../model.onnx"), "filename"),
    (lambda c: c["model"]["decoder"].update(filename="/model.onnx"), "filename"),
    (lambda c: c["model"]["decoder"].update(pipeline=[{"x": {"filename": "../a"}}]), "pipeline"),
    (lambda c: c["model"]["decoder"].update(run_options={}), "run_options"),
    (lambda c: c["model"].update(vision={"filename": "../a", "adapter_filename": "b"}), "vision"),
    (lambda c: c["model"].update(vocab_size="many"), "vocab_size"),
    (lambda c: c.update(engine={}), "engine"),
]


@pytest.mark.parametrize(("change", "says"), HOSTILE)
def test_a_setting_that_is_not_on_the_list_is_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    folder = _bundle(tmp_path / "b", "genai_config.json", _with(change))
    with pytest.raises(BundleError, match=says) as refused:
        Bundle.open(folder)
    assert refused.value.exit_code == 4
    with pytest.raises(BundleError, match=says):  # whoever opens it past the manifest
        GenaiDecoder.open(folder, Provider("cpu"), capacity=8)
    with pytest.raises(BundleError, match=says):
        GenaiDecoder.with_defaults(folder)


@pytest.mark.parametrize("verb", ["run", "validate", "bench", "apply", "selftest", "report"])
def test_every_verb_that_opens_a_bundle_refuses_it(
    tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foldrank.planfile.plan.Plan.read", lambda folder: None)  # apply reads its plan first
    change, says = HOSTILE[0]
    folder = str(_bundle(tmp_path / "b", "genai_config.json", _with(change)))
    more = {"run": ["--prompt", "x"], "validate": ["--reference", folder], "bench": ["--baseline", folder],
            "apply": [str(tmp_path / "plan"), "-o", str(tmp_path / "out")]}.get(verb, [])
    with pytest.raises(SystemExit) as left:
        main([verb, folder, *more])
    assert left.value.code == 4
    assert says in capsys.readouterr().err


def test_what_exporters_write_passes_unchanged(tmp_path: Path) -> None:
    folder = _bundle(tmp_path / "b", "genai_config.json", json.dumps(SOUND))
    Bundle.open(folder)
    assert settings(folder / "genai_config.json") == SOUND


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json",
                                  "processor_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(("text", "says"), [
    ('{"auto_map": {"AutoConfig": "evil.Config"}}', "auto_map"),
    ('{"a": [{"trust_remote_code": true}], "b": NaN}', "a.0.trust_remote_code"),
    ('{"custom_generate": "evil/repo"}', "custom_generate"),
])
def test_a_config_that_brings_code_is_refused(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(BundleError, match=says):
        Bundle.open(_bundle(tmp_path / "b", name, text))


def test_an_adapter_in_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="adapter"):
        Bundle.open(_bundle(tmp_path / "b", "adapter_config.json", "{}"))


def test_the_library_is_given_our_file_and_never_the_bundles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _bundle(tmp_path / "b", "genai_config.json", json.dumps(SOUND))
    seen: list[Path] = []

    class Config:
        def __init__(self, path: str) -> None:
            seen.append(Path(path))
            assert strictjson.read(seen[0] / "genai_config.json") == SOUND
            assert not (seen[0] / "genai_config.json").samefile(folder / "genai_config.json")
            assert (seen[0] / "model.onnx").samefile(folder / "model.onnx")

        def clear_providers(self) -> None: ...

        def overlay(self, text: str) -> None: ...

    library = SimpleNamespace(Config=Config, Model=lambda config: config)
    monkeypatch.setattr("foldrank.runtime.decoding.genai.load_genai", lambda: library)
    decoder = GenaiDecoder.open(folder, Provider("cpu"), capacity=8, threads=1)
    assert seen[0].is_dir()
    del decoder
    assert not seen[0].exists()
