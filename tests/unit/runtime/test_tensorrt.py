"""What a session on TensorRT is given, up to the hand-over; no card and no TensorRT is needed for it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from synthetic import PlanMaker, Shape, random_decoder, write_graph, write_standard

from foldrank.edits.storage import FewBits, Form
from foldrank.errors import ProviderUnavailable, SourceError
from foldrank.graph.safe.load import load_model
from foldrank.graph.summary import summary_of
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.runtime.providers import libnvinfer, tensorrt_cache
from foldrank.runtime.providers import provider as providers
from foldrank.runtime.providers.fallback import provider_for
from foldrank.runtime.providers.provider import Provider, resolve
from foldrank.runtime.providers.tensorrt import precision, prepared, refuse_unknown_operators
from foldrank.runtime.providers.tensorrt_profile import GIVEN
from foldrank.runtime.sessions.probe import probe
from foldrank.runtime.sessions.session import open_session
from foldrank.small_graphs import square
from foldrank.verbs import run as verb

TENSORRT, CPU = "TensorrtExecutionProvider", "CPUExecutionProvider"
CACHES = ("trt_engine_cache_enable", "trt_engine_cache_path", "trt_timing_cache_enable", "trt_timing_cache_path")


class FakeSession:
    """Remembers what it was made of, and says that TensorRT took the products."""

    given: dict[str, Any] = {}  # noqa: RUF012 - set by each session

    def __init__(self, path: str, options: Any, **others: Any) -> None:
        self.given.update(path=path, options=options, **others)

    def get_providers(self) -> list[str]:
        return [TENSORRT, CPU]

    def get_provider_graph_assignment_info(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(ep_name=TENSORRT, get_nodes=lambda: [SimpleNamespace(op_type="MatMul")])]

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_inputs


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build with TensorRT, its libraries and a card, all of which only pretend."""
    ort = providers.load_onnxruntime()
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CPU])
    monkeypatch.setattr(ort, "InferenceSession", FakeSession)
    monkeypatch.setattr(FakeSession, "given", {})
    monkeypatch.setattr(libnvinfer, "load_tensorrt", lambda: "10.16.1")
    monkeypatch.setattr(tensorrt_cache, "cards_and_driver", lambda: {"cards": ["NVIDIA H200"], "driver": "580.1"})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FOLDRANK_NO_CACHE", raising=False)


def standard(folder: Path, dtype: str = "float32") -> Path:
    folder.mkdir(exist_ok=True)
    write_standard(random_decoder(Shape(blocks=1, dtype=dtype)), folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    return folder / "model.onnx"


def test_a_session_is_given_profiles_precision_and_caches(tmp_path: Path) -> None:
    model = standard(tmp_path / "bundle", "float16")
    opened = open_session(model, resolve("tensorrt", {"device_id": "1", "profile_prompt": "1:4:16"}), threads=1)
    [(name, options)] = FakeSession.given["providers"]
    assert (name, FakeSession.given["path"], FakeSession.given["enable_fallback"]) == (TENSORRT, str(model), False)
    engine, timing = (options.pop(key) for key in (CACHES[1], CACHES[3]))
    assert Path(engine).parent == Path(timing).parent == tmp_path / "cache" / "foldrank" / "tensorrt"
    past = {0: "1x2x0x16", 1: "1x2x32x16", 2: "8x2x64x16"}
    tokens = {0: "1x1", 1: "1x4", 2: "8x16"}
    mask = {0: "1x1", 1: "1x36", 2: "8x80"}
    assert options == {
        "device_id": "1", "trt_fp16_enable": "1", CACHES[0]: "1", CACHES[2]: "1",
        **{option: f"input_ids:{tokens[i]},attention_mask:{mask[i]},position_ids:{tokens[i]},"
                   f"past_key_values.0.key:{past[i]},past_key_values.0.value:{past[i]}"
           for i, option in enumerate(GIVEN)},
    }
    assert opened.provider == Provider("tensorrt", {**options, CACHES[1]: engine, CACHES[3]: timing})
    assert opened.provider.device_id == 1


def test_the_context_comes_from_genai_config_first(tmp_path: Path) -> None:
    model = standard(tmp_path)
    (tmp_path / "genai_config.json").write_text(json.dumps({"model": {"context_length": 20}}))
    assert prepared(model, Provider("tensorrt")).options[GIVEN[2]].startswith("input_ids:8x20,attention_mask:8x40,")
    for name in ("genai_config.json", "config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(SourceError, match="context length"):
        prepared(model, Provider("tensorrt"))
    every = {"profile_prompt": "1:1:2", "profile_past": "0:1:2"}
    assert GIVEN[0] in prepared(model, Provider("tensorrt", every)).options


def test_what_the_user_gave_wins(tmp_path: Path) -> None:
    given = {GIVEN[2]: "input_ids:1x1", "trt_fp16_enable": "0", "trt_engine_cache_enable": "0",
             "trt_engine_cache_path": "/mine"}
    found = prepared(standard(tmp_path, "float16"), Provider("tensorrt", given)).options
    assert {name: found[name] for name in given} == given
    assert not {*GIVEN[:2]} & found.keys()  # one profile of the user's: none of ours
    assert found["trt_timing_cache_enable"] == "1"


@pytest.mark.parametrize(("dtype", "wanted"), [
    ("float32", {}), ("float16", {"trt_fp16_enable": "1"}), ("bfloat16", {"trt_bf16_enable": "1"}),
])
def test_no_graph_is_computed_in_less_than_it_is_stored_in(dtype: str, wanted: dict[str, str], tmp_path: Path) -> None:
    model = standard(tmp_path, dtype)
    assert precision(summary_of(model)) == wanted
    found = prepared(model, Provider("tensorrt")).options
    assert {name: value for name, value in found.items() if name.endswith(("16_enable", "8_enable"))} == wanted


def test_without_a_cache_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDRANK_NO_CACHE", "1")
    assert set(prepared(standard(tmp_path), Provider("tensorrt")).options) == set(GIVEN)


def test_a_graph_of_ours_that_is_no_decoder_gets_no_profile(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(square())
    assert set(open_session(model, Provider("tensorrt"), threads=1).provider.options) == set(CACHES)


def test_operators_that_tensorrt_does_not_know_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    write_graph(random_decoder(Shape(blocks=3)), model)
    with pytest.raises(ProviderUnavailable, match="on tensorrt: TensorRT cannot parse ") as caught:
        open_session(model, Provider("tensorrt"), threads=1)
    counted = caught.value.what.removeprefix("TensorRT cannot parse ").split(", ")
    norms = {"1 SimplifiedLayerNormalization", "6 SkipSimplifiedLayerNormalization"}
    assert {"3 GroupQueryAttention", *norms} <= {*counted}
    assert "--exporter transformers" in caught.value.remedy
    assert FakeSession.given == {}


def test_few_bits_are_taken_as_standard_operators_alone(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(blocks=2))
    write_standard(decoder, tmp_path / "model.onnx")
    paths: dict[Form, Path] = {"nbits": tmp_path / "nbits", "qdq": tmp_path / "qdq"}
    for form, folder in paths.items():
        plan = PlanMaker(decoder, "0" * 64).hold(FewBits(4, 32, True, 0, form)).plan()
        folder.mkdir()
        write_model(transform(load_model(tmp_path / "model.onnx"), plan)[0], folder)
    refuse_unknown_operators(paths["qdq"], summary_of(paths["qdq"] / "model.onnx"))
    with pytest.raises(ProviderUnavailable, match="8 MatMulNBits") as caught:
        refuse_unknown_operators(paths["nbits"], summary_of(paths["nbits"] / "model.onnx"))
    assert "form=qdq" in caught.value.remedy
    assert "--exporter" not in caught.value.remedy


def test_missing_libraries_are_told_before_a_session_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise ProviderUnavailable("provider tensorrt", "TensorRT's libnvinfer.so.10 is missing", "pip install it")

    monkeypatch.setattr(libnvinfer, "load_tensorrt", missing)
    with pytest.raises(ProviderUnavailable, match="libnvinfer"):
        open_session(standard(tmp_path), Provider("tensorrt"), threads=1)
    assert FakeSession.given == {}


def test_a_build_without_tensorrt_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers.load_onnxruntime(), "get_available_providers", lambda: [CPU])
    with pytest.raises(ProviderUnavailable, match=r"provider tensorrt: onnxruntime .* here has only cpu; pip install"):
        resolve("tensorrt", {"profile_past": "nonsense"})
    monkeypatch.setattr(FakeSession, "get_providers", lambda _: [CPU])
    with pytest.raises(ProviderUnavailable, match="on tensorrt: did not start"):
        open_session(standard(tmp_path), Provider("tensorrt"), threads=1)


def test_other_providers_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSession, "get_provider_graph_assignment_info", lambda _: [])
    opened = open_session(standard(tmp_path), Provider("cpu", {"use_arena": "0"}), threads=1)
    assert FakeSession.given["providers"] == [(CPU, {"use_arena": "0"})]
    assert opened.provider == Provider("cpu", {"use_arena": "0"})


def test_options_that_make_no_sense_are_wrong_use_before_anything_else() -> None:
    with pytest.raises(ValueError, match="profile_past=3:2:1"):
        provider_for("tensorrt", {"profile_past": "3:2:1"})
    with pytest.raises(ValueError, match="profile_past=3:2:1"):
        prepared(Path("none"), Provider("tensorrt", {"profile_past": "3:2:1"}))
    assert provider_for("tensorrt", {"profile_past": "0:1:2"}) == Provider("tensorrt", {"profile_past": "0:1:2"})


def test_doctor_says_which_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.undo()
    monkeypatch.setattr(providers.load_onnxruntime(), "get_available_providers", lambda: [TENSORRT, CPU])
    monkeypatch.setattr(libnvinfer, "_for_all", nowhere)
    monkeypatch.setattr(libnvinfer, "package_folders", list)
    model = tmp_path / "model.onnx"
    model.write_bytes(square())
    assert probe("tensorrt", model) == {"starts": False, "reason": "TensorRT's libnvinfer.so.10 is missing"}


@pytest.mark.parametrize(("name", "engine"), [("tensorrt", "onnxruntime"), ("cuda", "genai"), ("cpu", "genai")])
def test_run_takes_onnxruntime_genai_only_where_that_offers_the_provider(
    name: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = SimpleNamespace(path=Path("bundle"), model=Path("bundle") / "model.onnx",
                             json=lambda _: {"model": {"context_length": 8, "eos_token_id": 0}})
    made: dict[str, Any] = {"text": "", "prompt_tokens": 1, "tokens": [1], "seconds": 1.0}
    monkeypatch.setattr(verb, "Bundle", SimpleNamespace)
    monkeypatch.setattr(verb, "load_model", lambda _: None)
    monkeypatch.setattr(verb, "refuse_disagreement", lambda *_: None)
    monkeypatch.setattr(verb, "provider_for", lambda name, *_, **__: Provider(name))
    prompts = SimpleNamespace(tokenizer=SimpleNamespace(eos_token_id=0), encode=lambda _: [1])
    monkeypatch.setattr(verb, "_prompts", lambda *_: prompts)
    monkeypatch.setattr(verb.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(verb, "with_genai", lambda *_, **__: SimpleNamespace(engine="genai", **made))
    monkeypatch.setattr(verb, "with_onnxruntime", lambda *_, **__: [SimpleNamespace(engine="onnxruntime", **made)])
    assert verb.run(bundle, "x", provider=name)["engine"] == engine
