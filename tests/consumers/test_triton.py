"""Triton without a server: its own ModelConfig reads both configs, the Python back end runs over a stub of its API."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from continued import COUNT, own_tokens

from foldrank.plans.texts import load_tokenizer
from foldrank.verbs.package import package

config_pb = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient[grpc]: make consumers")
text_format = pytest.importorskip("google.protobuf.text_format")
PROMPT = "This proposal adds"
FINAL = 1


@pytest.fixture(scope="module")
def repository(dense_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model repository made of the bundled model."""
    folder = tmp_path_factory.mktemp("triton") / "repository"
    package(dense_5m, folder, format="triton")
    return folder


def read(path: Path) -> Any:
    return text_format.Parse(path.read_text(), config_pb.ModelConfig())


@pytest.mark.parametrize("bundle", ["dense_5m", "traced_llama"])
def test_the_decoders_config_names_every_input_and_output_of_the_graph(
    bundle: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    import onnxruntime as ort

    folder = tmp_path / "repository"
    package(request.getfixturevalue(bundle), folder, format="triton")
    config = read(folder / "decoder" / "config.pbtxt")
    assert (config.backend, config.default_model_filename, config.max_batch_size) == ("onnxruntime", "model.onnx", 0)
    session = ort.InferenceSession(str(folder / "decoder" / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    types = {"tensor(int64)": config_pb.TYPE_INT64, "tensor(float)": config_pb.TYPE_FP32}
    for told, found in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        wanted = {port.name: (types[port.type], [d if isinstance(d, int) else -1 for d in port.shape])
                  for port in found}
        assert {port.name: (port.data_type, list(port.dims)) for port in told} == wanted


def test_weights_lie_on_the_disk_once(repository: Path) -> None:
    folder = repository
    one, two = (folder / place / "model.onnx.data" for place in ("decoder/1", "generate/1/bundle"))
    assert one.stat().st_ino == two.stat().st_ino


class Tensor:
    """Of the stub."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        self._name, self._values = name, values

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._values


class Sender:
    """Of the stub: what a response sender was given, and a client that leaves after so many responses."""

    def __init__(self, leave_after: int | None = None) -> None:
        self.texts: list[str] = []
        self.errors: list[str] = []
        self.final, self._leave_after = 0, leave_after

    def is_cancelled(self) -> bool:
        return self._leave_after is not None and len(self.texts) >= self._leave_after

    def send(self, response: Any = None, flags: int = 0) -> None:
        assert not self.final, "nothing follows the final flag"
        self.final += flags
        if response is not None and response.error is not None:
            self.errors.append(response.error.message)
        elif response is not None:
            [tensor] = response.tensors
            assert tensor.name() == "text_output"
            self.texts.append(tensor.as_numpy()[0].decode())


def stub() -> ModuleType:
    """triton_python_backend_utils, as far as documented and used."""
    made = ModuleType("triton_python_backend_utils")
    made.Tensor, made.TRITONSERVER_RESPONSE_COMPLETE_FINAL = Tensor, FINAL  # type: ignore[attr-defined]
    made.TritonError = lambda message: SimpleNamespace(message=message)  # type: ignore[attr-defined]
    made.InferenceResponse = lambda tensors=(), error=None: SimpleNamespace(  # type: ignore[attr-defined]
        tensors=list(tensors), error=error)
    made.get_input_tensor_by_name = lambda request, name: request.inputs.get(name)  # type: ignore[attr-defined]
    return made


@pytest.fixture
def model(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The model as Triton's stub process makes it: beside its own file, with its config as JSON."""
    from google.protobuf import json_format

    folder = repository
    version = folder / "generate" / "1"
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stub())
    monkeypatch.syspath_prepend(str(version))
    sys.modules.pop("foldrank_generation", None)
    spec = importlib.util.spec_from_file_location("triton_model_under_test", version / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = json_format.MessageToDict(read(folder / "generate" / "config.pbtxt"), preserving_proto_field_name=True)
    made = module.TritonPythonModel()
    made.initialize({"model_config": json.dumps(config), "model_repository": str(folder / "generate"),
                     "model_version": "1", "model_instance_kind": "CPU"})
    yield made
    sys.modules.pop("foldrank_generation", None)


def ask(model: Any, *, leave_after: int | None = None, **inputs: Any) -> Sender:
    """One request; every input of one element, as the config says."""
    sender = Sender(leave_after)
    tensors = {name: Tensor(name, np.array([value.encode() if isinstance(value, str) else value],
                                           dtype=object if isinstance(value, str) else None))
               for name, value in inputs.items()}
    model.execute([SimpleNamespace(inputs=tensors, get_response_sender=lambda: sender)])
    assert sender.final == FINAL
    return sender


def test_the_python_back_end_writes_what_the_bundle_computes(model: Any, dense_5m: Path) -> None:
    tokenizer: Any = load_tokenizer(dense_5m)
    own = tokenizer.decode(own_tokens(dense_5m, tokenizer(PROMPT)["input_ids"]))
    whole = ask(model, text_input=PROMPT, max_tokens=np.int32(COUNT))
    pieces = ask(model, text_input=PROMPT, max_tokens=np.int32(COUNT), stream=np.bool_(True))
    assert whole.errors == pieces.errors == []
    assert whole.texts == [own]
    assert len(pieces.texts) > 3
    assert "".join(pieces.texts) == own


def test_a_client_that_leaves_ends_its_text(model: Any) -> None:
    found = ask(model, leave_after=2, text_input=PROMPT, max_tokens=np.int32(50), stream=np.bool_(True))
    assert len(found.texts) == 2


def test_a_request_that_cannot_be_done_is_an_error_and_the_next_is_answered(model: Any) -> None:
    assert ask(model, text_input="a", max_tokens=np.int32(0)).errors != []
    assert ask(model, text_input="").errors == ["the prompt has no tokens"]
    assert ask(model).errors == ["text_input is missing"]
    assert ask(model, text_input="a", temperature=np.float32(1), seed=np.int64(3)).errors == []


def test_the_config_has_what_the_script_reads(repository: Path) -> None:
    config = read(repository / "generate" / "config.pbtxt")
    assert config.backend == "python"
    assert config.model_transaction_policy.decoupled
    assert {port.name for port in config.input if not port.optional} == {"text_input"}
    script = (repository / "generate" / "1" / "model.py").read_text()
    assert all(f'"{port.name}"' in script for port in (*config.input, *config.output))
    subprocess.run([sys.executable, "-m", "py_compile", str(repository / "generate" / "1" / "model.py")], check=True)
