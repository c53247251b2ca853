"""Plugin providers compute what the plan says, or are refused. Each is skipped, with the reason, where its package or
its device is not here. Those of TensorRT RTX have not been run: no card that it takes was to be had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import foldrank
from foldrank.bundle.bundle import Bundle
from foldrank.errors import ProviderUnavailable
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.providers import plugins
from foldrank.runtime.providers.provider import Provider, resolve
from foldrank.runtime.sessions.session import open_session

pytestmark = pytest.mark.slow
PROMPT = np.array([[5, 17, 300, 41, 7, 900, 2, 33]])
DTYPES = {"openvino": "fp32", "webgpu": "fp32", "tensorrt-rtx": "fp16"}


@pytest.fixture(scope="module", params=list(DTYPES))
def on(request: pytest.FixtureRequest) -> Provider:
    try:
        return resolve(request.param)
    except ProviderUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def dense(on: Provider, specs_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return foldrank.export(specs_5m, tmp_path_factory.mktemp("plugged") / "dense", dtype=DTYPES[on.short],
                           provider=on.short, offline=True)


@pytest.fixture(scope="module")
def small(dense: Bundle, specs_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    plan = foldrank.plan(specs_5m, methods=["slm:keep=0.75", "dipsvd:keep=0.8,align=64"], calibration_tokens=4096)
    return foldrank.apply(dense, plan, tmp_path_factory.mktemp("plugged") / "small")


def test_the_graph_proof_passes(on: Provider, dense: Bundle, small: Bundle) -> None:
    found = foldrank.validate(small, reference=dense, provider=on.short, tokens=1024)
    assert found["graph"]["passed"] is True
    assert found["placement"].get("CPUExecutionProvider", 0) < found["placement"][on.name]


def test_tokens_are_those_of_the_cpu(on: Provider, small: Bundle) -> None:
    found, wanted = (OrtDecoder.open(small.path, there).generate(PROMPT, 16) for there in (on, resolve("cpu")))
    np.testing.assert_array_equal(found, wanted)


def test_a_product_that_it_does_not_take_is_an_error(on: Provider, tmp_path: Path) -> None:
    """In whole numbers of 64 bits, which ONNX Runtime's CPU multiplies without a word."""
    value = [helper.make_tensor_value_info(name, TensorProto.INT64, [2, 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "whole", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10),
              tmp_path / "model.onnx")
    with pytest.raises(ProviderUnavailable, match=f"on {on.short}: would run 1 MatMul elsewhere"):
        open_session(tmp_path / "model.onnx", on, threads=1)


def test_tensorrt_rtx_keeps_what_it_built(on: Provider, small: Bundle) -> None:
    if on.short != "tensorrt-rtx":
        pytest.skip("has no cache of ours")
    session = open_session(small.model, on)
    kept = Path(session.provider.options["nv_runtime_cache_path"])
    del session
    assert any(kept.iterdir())
    assert open_session(small.model, on).provider.options["nv_runtime_cache_path"] == str(kept)
    assert plugins.find("tensorrt-rtx") is not None
