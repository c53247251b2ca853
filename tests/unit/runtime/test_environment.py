"""What doctor calls a conflict."""

import pytest

from foldrank.runtime.providers.environment import number, older, problems

SOUND = {"onnxruntime": "1.32.0", "onnxruntime-genai": "0.18.0", "torch": "2.13.0+cpu", "transformers": "5.23.0",
         "onnx": "1.23.2", "protobuf": "7.36.2"}


def without(*names: str) -> dict[str, str]:
    return {k: v for k, v in SOUND.items() if k not in names}


ON_GPU = {**without("onnxruntime", "onnxruntime-genai"), "onnxruntime-gpu": "1.31.1"}


def test_the_supported_set_has_no_problem() -> None:
    assert problems(SOUND) == []


@pytest.mark.parametrize(("installed", "says"), [
    ({**SOUND, "onnxruntime-gpu": "1.31.1"}, "one folder"),
    ({**without("onnxruntime"), "onnxruntime-gpu": "1.31.1"}, "CPU build"),
    ({**SOUND, "onnxruntime-genai-cuda": "0.18.0"}, "onnxruntime-genai-cuda"),
    ({**SOUND, "onnx": "1.22.0"}, "onnx 1.22.0"),
    ({**SOUND, "onnxruntime": "1.30.0"}, "onnxruntime 1.30.0"),
    ({**SOUND, "transformers": "5.2.0"}, "CVE-2026-5241"),
    ({**SOUND, "torch": "2.5.1"}, "torch 2.5.1"),
    ({**SOUND, "sentencepiece": "0.2.0"}, "sentencepiece"),
    ({**SOUND, "protobuf": "6.33.4"}, "protobuf"),
    ({**SOUND, "optimum-onnx": "0.1.0"}, "optimum-onnx"),
    ({**without("onnxruntime", "onnxruntime-genai"), "onnxruntime-gpu": "1.31.1", "torch": "2.13.0+cu128"}, "CUDA 12"),
    ({**ON_GPU, "tensorrt-cu13": "11.0"}, "TensorRT 10"),
    ({**ON_GPU, "tensorrt-cu12": "10.9"}, "CUDA 13"),
    (without("onnxruntime", "onnxruntime-genai"), "no ONNX Runtime"),
    (without("torch"), "no torch"),
])
def test_each_conflict_is_named_with_a_fix(installed: dict[str, str], says: str) -> None:
    found = problems(installed)
    assert any(says in p["what"] for p in found)
    assert all(p["fix"] for p in found)


def test_tensorrt_of_the_right_kind_is_no_conflict() -> None:
    assert problems({**ON_GPU, "tensorrt-cu13": "10.14.1"}) == []
    assert problems({**SOUND, "tensorrt-cu13": "11.0"}) == []  # nothing here would load it


def test_versions_compare_by_number() -> None:
    assert number("2.13.0+cpu") == (2, 13, 0)
    assert older("1.9", "1.23")
    assert older("5.2", "5.2.1")
    assert not older("1.30.1", "1.30.1")
    assert not older("1.31", "1.30.1")
    assert not older("2.6.0", "2.6")
