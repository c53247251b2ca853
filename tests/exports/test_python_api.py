"""The verbs as Python functions, as the contract shows them, on each method alone."""

from pathlib import Path

import pytest
from nightly import NIGHTLY

import foldrank
from foldrank.bundle.bundle import Bundle

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("methods", "blocks"), [
    (["slm:keep=0.75"], 9), pytest.param(["dipsvd:keep=0.8"], 12, marks=NIGHTLY),
    pytest.param(["slm:keep=0.9", "dipsvd:keep=0.9,packed=split"], 10, marks=NIGHTLY),
])
def test_each_method_alone_and_together_passes_the_graph_proof(
    methods: list[str], blocks: int, specs_5m: Path, dense_5m: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foldrank.verbs.proving_windows.MIN_POSITIONS", 1024)  # all of them in test_whole_way
    plan = foldrank.plan(specs_5m, methods=methods, calibration_tokens=1024)
    small = foldrank.apply(dense_5m, plan, tmp_path / "small")
    found = foldrank.validate(small, reference=dense_5m, tokens=1024)
    assert found["graph"]["passed"] is True
    assert found["graph"]["positions"] == 1024
    assert found["graph"]["max_relative_error"] <= 1e-5
    assert found["graph"]["argmax_agreement"] == 1.0
    assert foldrank.inspect(small.path)["blocks"] == blocks


def test_keep_1_changes_no_initializer(specs_5m: Path, dense_5m: Path, tmp_path: Path) -> None:
    import onnx_ir as ir

    plan = foldrank.plan(specs_5m, methods=["slm:keep=1", "dipsvd:keep=1"], calibration_tokens=1024)
    assert plan.edits == ()
    small = foldrank.apply(dense_5m, plan, tmp_path / "small")
    assert "may be padded on the left or on the right" in (small.path / "README.md").read_text()
    before, after = (ir.load(str(b / "model.onnx")).graph.initializers for b in (dense_5m, small.path))
    assert set(before) == set(after)
    for name, value in before.items():
        assert value.const_value is not None
        assert after[name].const_value is not None
        assert value.const_value.tobytes() == after[name].const_value.tobytes()  # type: ignore[union-attr]


def test_export_is_a_function_and_a_package(specs_5m: Path, tmp_path: Path) -> None:
    import foldrank.export.exporters

    dense = foldrank.export(specs_5m, tmp_path / "dense", exporter="genai")
    assert isinstance(dense, Bundle)
    assert foldrank.diff(dense.path, dense.path)["same"]
    assert callable(foldrank.export)
    assert foldrank.export.exporters is not None
