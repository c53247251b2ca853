"""A graph that rounds activations to int8: its weights are judged without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import foldrank
from foldrank.bundle.bundle import Bundle
from foldrank.model.checkpoint import Checkpoint
from foldrank.reports.validate import GraphProof
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.providers.provider import resolve
from foldrank.tolerances import GRAPH_PROOF_FP32, GRAPH_PROOF_KL_NATS, INT8
from foldrank.verbs.reference import Known, reference_of
from foldrank.verbs.selftest import add_selftest
from foldrank.verbs.validate import proof_of

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def small(specs_5m: Path, dense_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("rounded")
    plan = foldrank.plan(specs_5m, methods=["quantize:bits=4,rounding=nearest"], calibration_tokens=512)
    return foldrank.apply(dense_5m, plan, folder / "small")


@pytest.fixture(scope="module")
def known(small: Bundle, specs_5m: Path) -> Known:
    return reference_of(small, Checkpoint.open(specs_5m))


@pytest.fixture(autouse=True)
def few_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many are looked at is asked elsewhere."""
    monkeypatch.setattr("foldrank.verbs.proving_windows.MIN_POSITIONS", 512)


def _graph(small: Bundle, known: Known) -> GraphProof:
    decoder = OrtDecoder.open(small.path, resolve("cpu"), threads=1)
    return proof_of(small, known, decoder, np.random.default_rng(3).integers(0, 4000, (4, 128)), seed=0)


def test_its_weights_are_judged_without_rounding_and_its_kernels_with(
    small: Bundle, known: Known, dense_5m: Path, specs_5m: Path
) -> None:
    """Another model's weights fail both."""
    assert known.precision == INT8
    found = _graph(small, known)
    assert (found.passed, found.measure, found.limit) == (True, "max_relative_error", GRAPH_PROOF_FP32)
    assert found.reference.endswith("activations not rounded")
    checks = {check.name: check for check in found.checks or ()}
    assert (checks["rounded"].measure, checks["rounded"].limit) == ("kl_nats", GRAPH_PROOF_KL_NATS[INT8])
    assert GRAPH_PROOF_FP32 < checks["rounded"].value < 0.01
    other = replace(reference_of(Bundle.open(dense_5m), Checkpoint.open(specs_5m)), precision=INT8)
    assert _graph(small, other).passed is False


def test_so_is_its_self_test(small: Bundle, known: Known) -> None:
    found = foldrank.selftest(add_selftest(small, known, seed=0))
    assert (found["precision"], found["verdict"]) == ("fp32", "pass")
    assert [check["name"] for check in found["checks"]][3:] == [
        f"{name}, rounded" for name in ("prefill", "cached_decode", "full_context")]


def test_only_rounding_is_left_out(small: Bundle, known: Known) -> None:
    ids = np.arange(5, 101, dtype=np.int64)[None]
    rounded, plain = (OrtDecoder.open(small.path, resolve("cpu"), threads=1, rounds=rounds).prefill(ids)
                      for rounds in (True, False))
    wanted = known.logits(ids)
    assert abs(plain - wanted).max() < 1e-5 * abs(wanted).max() < abs(rounded - wanted).max()
