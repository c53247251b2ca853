"""A graph that rounds activations to int8: where that alone moves logits too far, its weights are judged without."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import foldrank
from foldrank.bundle.bundle import Bundle
from foldrank.model.checkpoint import Checkpoint
from foldrank.reports.validate import GraphProof
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.proof import graph_proof
from foldrank.runtime.providers.provider import resolve
from foldrank.tolerances import GRAPH_PROOF_FP32, INT8
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
    monkeypatch.setattr(importlib.import_module("foldrank.verbs.validate"), "MIN_POSITIONS", 512)


def _graph(small: Bundle, known: Known) -> GraphProof:
    decoder = OrtDecoder.open(small.path, resolve("cpu"), threads=1)
    return proof_of(small, known, decoder, np.random.default_rng(3).integers(0, 4000, (4, 128)), seed=0)


def test_a_right_graph_passes_whatever_rounding_does(
    small: Bundle, known: Known, dense_5m: Path, specs_5m: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And another model's weights fail both times."""
    assert known.precision == INT8
    assert _graph(small, known).measure == "kl_nats"
    monkeypatch.setitem(graph_proof.GRAPH_PROOF_KL_NATS, INT8, 1e-9)
    found = _graph(small, known)
    assert (found.passed, found.measure, found.limit) == (True, "max_relative_error", GRAPH_PROOF_FP32)
    assert found.reference is not None
    assert found.reference.endswith("activations not rounded")
    other = replace(reference_of(Bundle.open(dense_5m), Checkpoint.open(specs_5m)), precision=INT8)
    assert _graph(small, other).passed is False


def test_its_self_test_passes_likewise(small: Bundle, known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    tested = add_selftest(small, known, seed=0)
    assert foldrank.selftest(tested)["precision"] == INT8
    monkeypatch.setitem(graph_proof.GRAPH_PROOF_KL_NATS, INT8, 1e-9)
    found = foldrank.selftest(tested)
    assert (found["precision"], found["verdict"]) == ("fp32", "pass")


def test_only_rounding_is_left_out(small: Bundle, known: Known) -> None:
    ids = np.arange(5, 101, dtype=np.int64)[None]
    rounded, plain = (OrtDecoder.open(small.path, resolve("cpu"), threads=1, rounds=rounds).prefill(ids)
                      for rounds in (True, False))
    wanted = known.logits(ids)
    assert abs(plain - wanted).max() < 1e-5 * abs(wanted).max() < abs(rounded - wanted).max()
