"""doctor starts each provider in a child process; what does not start is said, with a reason, never guessed."""

from pathlib import Path

import pytest

from foldrank import small_graphs
from foldrank.runtime.providers import fallback as module
from foldrank.runtime.providers.fallback import probed
from foldrank.runtime.sessions.probe import probe
from foldrank.verbs.doctor import doctor


def test_the_cpu_starts_and_runs_nodes(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(small_graphs.square())
    assert probe("cpu", model) == {"starts": True, "reason": None}


def test_a_provider_that_is_not_installed_is_not_available() -> None:
    found = doctor()
    states = {p["name"]: p for p in found["providers"]}
    assert states["cpu"]["starts"] is True
    assert set(states) >= {"cpu", "cuda", "tensorrt", "openvino", "webgpu", "tensorrt-rtx"}
    assert all(p["reason"] for p in found["providers"] if not p["starts"])
    assert {"python", "foldrank", "onnxruntime", "torch"} <= set(found["versions"])


@pytest.mark.parametrize(("program", "says"), [
    ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"), ("raise OSError('libcudart is missing')", "libcudart"),
    ("import time; time.sleep(60)", "did not answer"),
])
def test_a_child_that_dies_is_a_provider_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, says: str
) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!{module.sys.executable}\n{program}\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(stand_in))
    monkeypatch.setattr(module, "_SECONDS", 3)
    found = probed("cpu")
    assert found["starts"] is False
    assert says in found["reason"]
