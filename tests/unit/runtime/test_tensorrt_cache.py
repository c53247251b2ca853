"""Engines are kept under everything they follow from: one ingredient changed, another folder."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foldrank.errors import UnsafeModel
from foldrank.runtime.providers import tensorrt_cache
from foldrank.runtime.providers.tensorrt_cache import FORGET_S, cache_options, cards_and_driver, engine_digest

CARD = {"cards": ["NVIDIA H200"], "driver": "580.1"}
ENGINE, TIMING = "trt_engine_cache_path", "trt_timing_cache_path"


class NVMLError(Exception):
    pass


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FOLDRANK_NO_CACHE", raising=False)
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "weights.data").write_bytes(b"weights")
    (folder / "model.onnx").write_bytes(b"graph")
    return folder / "model.onnx"


def kept(
    model: Path, options: dict[str, str] | None = None, version: str = "10.16.1", card: dict[str, Any] | None = CARD
) -> dict[str, str]:
    return cache_options(model, ["weights.data"], options or {}, version, cards=lambda: card)


def test_engine_and_timings_have_folders_in_the_cache(model: Path, tmp_path: Path) -> None:
    found = kept(model)
    assert (found.pop("trt_engine_cache_enable"), found.pop("trt_timing_cache_enable")) == ("1", "1")
    assert set(found) == {ENGINE, TIMING}
    for path in found.values():
        assert Path(path).is_dir()
        assert Path(path).parent == tmp_path / "cache" / "foldrank" / "tensorrt"
    assert kept(model)[ENGINE] == found[ENGINE]


def test_every_ingredient_changes_the_engines_folder(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, data: bytes) -> Callable[[], dict[str, str]]:
        def change() -> dict[str, str]:
            (model.parent / name).write_bytes(data)
            return kept(model)
        return change

    def other_runtime() -> dict[str, str]:
        monkeypatch.setattr(tensorrt_cache, "load_onnxruntime", lambda: SimpleNamespace(__version__="9.9"))
        return kept(model)

    first = kept(model)
    found = {
        "options": kept(model, {"trt_fp16_enable": "1"}), "version": kept(model, version="10.16.2"),
        "card": kept(model, card={**CARD, "cards": ["NVIDIA H100"]}),
        "driver": kept(model, card={**CARD, "driver": "1"}),
        "device": kept(model, {"device_id": "1"}), "graph": write("model.onnx", b"another")(),
        "weights": write("weights.data", b"Weights")(), "onnxruntime": other_runtime(),
    }
    folders = [first[ENGINE], *(one[ENGINE] for one in found.values())]
    assert len(set(folders)) == len(folders)
    apart = {name for name, one in found.items() if one[TIMING] != first[TIMING]}
    assert apart == {"version", "card", "driver", "device"}  # timings do not follow from graphs


def test_the_digest_is_that_of_content_not_of_place(model: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "copy"
    model.parent.rename(elsewhere)
    first = engine_digest(elsewhere / "model.onnx", ["weights.data"], {}, {})
    elsewhere.rename(model.parent)
    assert engine_digest(model, ["weights.data"], {}, {}) == first


def test_nothing_is_kept_without_a_cache_a_named_card_or_a_place(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept(model, card=None) == {}
    monkeypatch.setenv("XDG_CACHE_HOME", str(model))  # a file
    assert kept(model) == {}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FOLDRANK_NO_CACHE", "1")
    assert kept(model) == {}
    assert not (tmp_path / "cache" / "foldrank" / "tensorrt").exists()


@pytest.mark.parametrize(("name", "says"), [("../other.data", "lies outside"), ("/dev/zero", "lies outside"),
                                            ("none.data", "is missing"), (".", "is missing")])
def test_only_files_of_the_bundle_are_hashed(name: str, says: str, model: Path) -> None:
    with pytest.raises(UnsafeModel, match=f"its data file {name} {says}"):
        cache_options(model, [name], {}, "10.16.1", cards=lambda: CARD)


def test_an_engine_nobody_opened_for_long_goes_and_one_in_use_stays(model: Path) -> None:
    old, young = (Path(kept(model, {"device_id": str(i)})[ENGINE]) for i in range(2))
    (old / "model.engine").touch()
    long_ago = time.time() - FORGET_S - 60
    for folder in (old, young):
        os.utime(folder, (long_ago, long_ago))
    assert Path(kept(model, {"device_id": "1"})[ENGINE]) == young
    assert young.is_dir()
    assert not old.exists()


def test_cards_and_driver_are_asked_of_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NVMLError

    library = SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 2, nvmlDeviceGetHandleByIndex=int,
        nvmlDeviceGetName=lambda i: [b"first", "second"][i], nvmlSystemGetDriverVersion=lambda: "580.1")
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    assert cards_and_driver() == {"cards": ["first", "second"], "driver": "580.1", "CUDA_VISIBLE_DEVICES": "1",
                                  "CUDA_DEVICE_ORDER": ""}
    library.nvmlInit = refuse
    assert cards_and_driver() is None
