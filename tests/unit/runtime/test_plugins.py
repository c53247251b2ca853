"""Providers that come as packages: found by their name, registered once, used on the device that was asked for.

The stand-in is a package whose provider is ONNX Runtime's own for the CPU, so that sessions on it are real.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foldrank.errors import ProviderUnavailable
from foldrank.runtime.providers import openvino, plugins, tensorrt_cache
from foldrank.runtime.providers import provider as providers
from foldrank.runtime.providers.fallback import provider_for
from foldrank.runtime.providers.provider import Provider, known, resolve, short_name
from foldrank.runtime.sessions.session import open_session
from foldrank.small_graphs import square

CPU = "CPUExecutionProvider"


def write_package(site: Path, name: str, body: str) -> None:
    module = name.replace("-", "_")
    (site / module).mkdir(parents=True)
    (site / module / "__init__.py").write_text(body)
    facts = site / f"{module}-1.2.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (facts / "top_level.txt").write_text(f"{module}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that comes first."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(plugins, "_registered", set())
    return tmp_path / "site"


@pytest.fixture
def standin(site: Path) -> None:
    write_package(site, "onnxruntime-ep-standin", f"get_ep_name = lambda: {CPU!r}\nget_library_path = lambda: 'x.so'\n")


def library(devices: list[tuple[str, str]], registered: list[tuple[str, str]]) -> Any:
    """An onnxruntime whose registered libraries bring these devices: provider's name, kind."""
    made = [SimpleNamespace(ep_name=name, device=SimpleNamespace(type=SimpleNamespace(name=kind)))
            for name, kind in devices]
    state = providers.load_onnxruntime().capi.onnxruntime_pybind11_state
    return SimpleNamespace(
        capi=SimpleNamespace(onnxruntime_pybind11_state=state),
        get_ep_devices=lambda: made if registered else [],
        register_execution_provider_library=lambda name, path: registered.append((name, path)))


def test_a_package_is_a_provider_and_its_sessions_run_on_it(standin: None, tmp_path: Path) -> None:
    assert "standin" in known()
    assert [plugin.version for plugin in plugins.installed() if plugin.short == "standin"] == ["1.2"]
    on = resolve(short_name("standin"))
    assert (on.name, on.plugged, on.device, on.processor) == (CPU, True, "cpu", "other")
    (tmp_path / "model.onnx").write_bytes(square())
    opened = open_session(tmp_path / "model.onnx", on, threads=1)
    assert (opened.provider.short, opened.placement) == ("standin", {CPU: 1})


def test_a_plugin_that_does_not_start_is_an_error(
    standin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its device is that of another here, so that ONNX Runtime's CPU does its products, without a word."""
    (tmp_path / "model.onnx").write_bytes(square())
    device = plugins.device(providers.load_onnxruntime(), "standin", {})
    monkeypatch.setattr(plugins, "device", lambda *_: device)
    with pytest.raises(ProviderUnavailable, match="on openvino: did not start; ONNX Runtime would use CPU"):
        open_session(tmp_path / "model.onnx", Provider("openvino"), threads=1)


def test_a_library_is_registered_once_and_the_device_chosen_by_kind_and_number(site: Path) -> None:
    write_package(site, "onnxruntime-ep-openvino", "get_library_path = lambda: '/there/plugin.so'\n")
    name, registered = plugins.LONG_NAMES["openvino"], list[tuple[str, str]]()
    ort = library([(CPU, "CPU"), (name, "CPU"), (name, "GPU"), (name, "GPU")], registered)
    found = [plugins.device(ort, "openvino", options) for options in
             ({}, {"device": "GPU"}, {"device": "gpu", "device_id": "1"})]
    _, cpu, one, two = ort.get_ep_devices()
    assert [id(device) for device in found] == [id(device) for device in (cpu, one, two)]
    assert registered == [(name, "/there/plugin.so")]
    with pytest.raises(ProviderUnavailable, match=r"1\.2 offers no gpu device 2 here; it has cpu, gpu, gpu"):
        plugins.device(ort, "openvino", {"device": "gpu", "device_id": "2"})
    with pytest.raises(ProviderUnavailable, match="offers no npu device here"):
        plugins.device(ort, "openvino", {"device": "npu"})


def test_what_is_missing_is_said_with_the_way_out(site: Path) -> None:
    with pytest.raises(ProviderUnavailable, match="onnxruntime-ep-other is not installed; pip install onnxruntime-ep"):
        plugins.device(library([], []), "other", {})
    write_package(site, "onnxruntime-ep-webgpu", "get_library_path = lambda: '/there/plugin.so'\n")
    with pytest.raises(ProviderUnavailable, match=r"webgpu 1\.2 offers no device here; it needs a GPU and, on Linux,"):
        plugins.device(library([], []), "webgpu", {})
    plugins._registered.clear()
    with pytest.raises(ProviderUnavailable, match=r"webgpu 1\.2 does not load: .*plugin\.so"):
        plugins.device(providers.load_onnxruntime(), "webgpu", {})
    write_package(site, "onnxruntime-ep-broken", "raise OSError('no libcuda')\n")
    with pytest.raises(ProviderUnavailable, match=r"broken 1\.2: no libcuda; pip install --force-reinstall"):
        plugins.device(library([], []), "broken", {})
    on = provider_for("webgpu", allow_fallback=True)
    assert on.short == "cpu"
    assert on.instead_of is not None
    assert "does not load" in on.instead_of


def test_openvino_is_asked_for_the_numbers_in_the_graph_and_for_the_threads() -> None:
    asked = openvino.prepared(Provider("openvino"), threads=3)
    assert json.loads(asked.options["load_config"]) == {"CPU": {
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "INFERENCE_NUM_THREADS": "3", "INFERENCE_PRECISION_HINT": "f32"}}
    on_gpu = openvino.prepared(Provider("openvino", {"device": "GPU"}), threads=3)
    assert json.loads(on_gpu.options["load_config"]) == {"GPU": {"INFERENCE_PRECISION_HINT": "f32"}}
    for options in ({"load_config": "{}"}, {"device": "npu"}):
        assert openvino.prepared(Provider("openvino", options), threads=3).options == options


def test_which_processor_computes_is_told_by_the_provider_and_its_device() -> None:
    assert [Provider(name, options).processor for name, options in (
        ("cpu", {}), ("openvino", {}), ("openvino", {"device": "GPU"}), ("webgpu", {}), ("tensorrt-rtx", {}),
    )] == ["cpu", "cpu", "other", "other", "nvidia"]


def test_options_that_choose_a_device_are_not_handed_on() -> None:
    assert plugins.given({"device": "gpu", "device_id": "1", "load_config": "{}"}) == {"load_config": "{}"}


def test_tensorrt_rtx_has_a_cache_of_its_own_keyed_as_tensorrts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FOLDRANK_NO_CACHE", raising=False)
    (tmp_path / "model.onnx").write_bytes(b"graph")
    card = {"cards": ["NVIDIA RTX 4090"], "driver": "580.1"}

    def kept(options: dict[str, str], version: str = "0.5.0") -> dict[str, str]:
        return tensorrt_cache.rtx_cache_options(tmp_path / "model.onnx", [], options, version, cards=lambda: card)

    [(name, folder)] = kept({}).items()
    assert name == "nv_runtime_cache_path"
    assert Path(folder).is_dir()
    assert Path(folder).parent == tmp_path / "cache" / "foldrank" / "tensorrt-rtx"
    assert kept({})[name] == folder
    others = {kept({"enable_cuda_graph": "1"})[name], kept({}, "0.6.0")[name]}
    card["driver"] = "590.1"
    others.add(kept({})[name])
    (tmp_path / "model.onnx").write_bytes(b"another")
    others.add(kept({})[name])
    assert len(others | {folder}) == 5
