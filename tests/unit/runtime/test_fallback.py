"""Providers that are not there, do not start, or leave half the work to the CPU: caught; a fallback only if allowed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foldrank.cli import main
from foldrank.errors import ProviderUnavailable
from foldrank.runtime.providers import fallback
from foldrank.runtime.providers import provider as providers
from foldrank.runtime.providers.fallback import provider_for
from foldrank.runtime.providers.provider import Provider
from foldrank.runtime.sessions.session import open_session
from foldrank.small_graphs import square

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class FakeSession:
    """A session as ONNX Runtime gives it where a provider takes only some of the nodes it was asked to take."""

    placed: dict[str, list[str]] = {}  # noqa: RUF012 - set by each test
    started: list[str] = []  # noqa: RUF012

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def get_providers(self) -> list[str]:
        return self.started

    def get_provider_graph_assignment_info(self) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda ops=ops: [SimpleNamespace(op_type=op) for op in ops])
            for name, ops in self.placed.items()
        ]

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_inputs


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(square())
    return tmp_path / "model.onnx"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    ort = providers.load_onnxruntime()
    monkeypatch.setattr(ort, "InferenceSession", FakeSession)
    monkeypatch.setattr(FakeSession, "started", [CUDA, CPU])
    return FakeSession


def test_a_provider_that_drops_half_its_nodes_to_the_cpu_is_caught(
    fake: type[FakeSession], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "placed", {CUDA: ["MatMul"] * 4 + ["Add"] * 4, CPU: ["MatMul"] * 4 + ["Add"] * 4})
    with pytest.raises(ProviderUnavailable, match="would run 4 MatMul elsewhere"):
        open_session(model, Provider("cuda"))
    monkeypatch.setattr(fake, "placed", {CUDA: ["MatMul"] * 8, CPU: ["Shape", "Gather"]})
    opened = open_session(model, Provider("cuda"))
    assert opened.placement == {CUDA: 8, CPU: 2}
    assert opened.operators == {"Gather": 1, "MatMul": 8, "Shape": 1}


def test_a_provider_that_fails_to_start_is_caught(
    fake: type[FakeSession], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "placed", {CPU: ["MatMul"] * 8})
    monkeypatch.setattr(fake, "started", [CPU])
    with pytest.raises(ProviderUnavailable, match="did not start"):
        open_session(model, Provider("cuda"))


def test_what_is_not_there_is_an_error_and_the_cpu_only_where_that_is_allowed() -> None:
    if CUDA in providers.load_onnxruntime().get_available_providers():
        pytest.skip("this build has CUDA")
    with pytest.raises(ProviderUnavailable, match="provider cuda"):
        provider_for("cuda", {"device_id": "1"})
    on = provider_for("CUDAExecutionProvider", {"device_id": "1"}, allow_fallback=True)
    assert (on.short, dict(on.options)) == ("cpu", {})
    assert on.instead_of is not None
    assert on.instead_of.startswith("cuda: onnxruntime")
    assert provider_for("cpu", allow_fallback=True) == Provider("cpu")
    with pytest.raises(ProviderUnavailable, match="is not known"):
        provider_for("abacus", allow_fallback=True)


def test_what_does_not_start_is_replaced_where_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "resolve", lambda name, options: Provider("cuda", options or {}))
    monkeypatch.setattr(fallback, "probed", lambda _: {"starts": False, "reason": "no driver"})
    assert provider_for("cuda") == Provider("cuda")
    assert provider_for("cuda", allow_fallback=True) == Provider("cpu", instead_of="cuda: no driver")
    monkeypatch.setattr(fallback, "probed", lambda _: {"starts": True, "reason": None})
    assert provider_for("cuda", allow_fallback=True) == Provider("cuda")


def test_the_command_line_says_what_it_ran_on(dense_5m: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["run", str(dense_5m), "--prompt", "A", "--max-new-tokens", "2", "--provider", "tensorrt", "--json"]
    assert main._run(asked) == 3
    capsys.readouterr()
    assert main._run([*asked, "--allow-fallback"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["provider"] == "cpu"
    assert found["instead_of"].startswith("tensorrt: ")
