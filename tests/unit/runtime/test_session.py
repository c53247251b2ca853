"""Providers and sessions: what is asked for is what runs, or there is a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper

from foldrank.errors import FoldrankError, ProviderUnavailable, SourceError, UnsafeModel
from foldrank.runtime.providers import provider as providers
from foldrank.runtime.providers.provider import Provider, resolve, short_name
from foldrank.runtime.sessions import session
from foldrank.runtime.sessions.session import default_threads, open_session


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """y = x @ x, one node."""
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 2]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "tiny", value[:1], value[1:])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize(("name", "short"), [
    ("cpu", "cpu"), ("CPU", "cpu"), ("CPUExecutionProvider", "cpu"), ("CUDAExecutionProvider", "cuda"),
    ("TensorrtExecutionProvider", "tensorrt"),
])
def test_short_and_long_names_mean_the_same(name: str, short: str) -> None:
    assert short_name(name) == short


def test_an_unknown_provider_is_told_the_known_ones() -> None:
    with pytest.raises(ProviderUnavailable, match=r"provider tpu: is not known; one of cpu, cuda, tensorrt") as caught:
        resolve("tpu")
    assert caught.value.exit_code == 3


def test_a_provider_the_library_lacks_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(__version__="9.9", get_available_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(providers, "load_onnxruntime", lambda: library)
    with pytest.raises(ProviderUnavailable, match=r"provider cuda: onnxruntime 9.9 here has only cpu; pip install"):
        resolve("cuda")


def test_options_are_passed_through_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(__version__="9.9", get_available_providers=lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(providers, "load_onnxruntime", lambda: library)
    found = resolve("cuda", {"device_id": "1"})
    assert (found.name, found.device, dict(found.options)) == ("CUDAExecutionProvider", "cuda", {"device_id": "1"})
    assert found.device_id == 1


def test_a_missing_library_is_an_environment_error_with_the_command() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from foldrank.runtime.providers.provider import resolve\n"
        "try: resolve('cpu')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ProviderUnavailable onnxruntime: is not installed; pip install")


def test_telemetry_is_off_before_the_library_is_imported() -> None:
    code = (
        "import os, sys\n"
        "class Spy:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'onnxruntime': print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Spy())\n"
        "from foldrank.runtime.providers.provider import resolve\n"
        "resolve('cpu')\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split()[0] == "1"


def test_a_session_tells_where_its_nodes_run_and_with_how_many_threads(tiny: Path) -> None:
    found = open_session(tiny, resolve("cpu"), threads=1)
    assert found.placement == {"CPUExecutionProvider": 1}
    assert found.threads == 1
    assert found.inputs["x"].shape == (2, 2)
    assert found.outputs["y"].type == "tensor(float)"


def test_default_threads_are_physical_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.psutil, "cpu_count", lambda logical: 64)
    monkeypatch.setattr(session.os, "sched_getaffinity", lambda _: {3, 4, 5}, raising=False)
    assert default_threads() == 3
    monkeypatch.setattr(session.psutil, "cpu_count", lambda logical: 2)
    assert default_threads() == 2


def test_a_file_that_is_missing_or_no_graph_is_refused(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        open_session(tmp_path / "none.onnx", resolve("cpu"))
    tiny.write_bytes(tiny.read_bytes()[:-20])
    with pytest.raises(UnsafeModel, match=r"model\.onnx"):
        open_session(tiny, resolve("cpu"))


def test_a_provider_that_silently_moved_to_the_cpu_is_an_error(tiny: Path) -> None:
    """Asks ONNX Runtime for a provider this build does not have: it warns and runs on the CPU; we do not."""
    ort = providers.load_onnxruntime()
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this build has CUDA")
    with pytest.warns(UserWarning, match="CUDA"), pytest.raises(ProviderUnavailable, match="on cuda"):
        open_session(tiny, Provider("cuda"))


def test_heavy_nodes_elsewhere_are_an_error_and_shape_arithmetic_is_not() -> None:
    started = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    placed = [("CUDAExecutionProvider", "MatMul"), ("CPUExecutionProvider", "Shape")]
    session._check_provider(Path("m"), Provider("cuda"), started, placed)
    strays = [("CPUExecutionProvider", "MatMul")] * 2
    with pytest.raises(ProviderUnavailable, match="2 MatMul elsewhere"):
        session._check_provider(Path("m"), Provider("cuda"), started, [*placed, *strays])
    with pytest.raises(ProviderUnavailable, match=r"1 MatMulNBits elsewhere.*form=qdq"):
        session._check_provider(Path("m"), Provider("cuda"), started, [("CPUExecutionProvider", "MatMulNBits")])
    with pytest.raises(FoldrankError, match="would use CPUExecutionProvider"):
        session._check_provider(Path("m"), Provider("cuda"), started[1:], placed)
