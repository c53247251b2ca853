"""The self-test passes on the bundle it was made for, and fails on a changed weight, a wrong cache and NaN."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from foldrank.bundle.bundle import Bundle
from foldrank.errors import BundleError, ValidationFailed
from foldrank.model.checkpoint import Checkpoint
from foldrank.runtime.proof.compare import kl_divergence, log_softmax
from foldrank.runtime.proof.selftest import FILE, LIKELIEST, Seen, SelfTest, precision_of
from foldrank.runtime.providers.provider import Provider
from foldrank.verbs.reference import reference_of
from foldrank.verbs.selftest import add_selftest, selftest


def logits_of(ids: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(int(ids.sum()))
    return 4 * rng.normal(size=(*ids.shape, 50))


IDS = np.random.default_rng(0).integers(0, 50, (3, 6))
MADE = SelfTest.of(IDS, logits_of, "by hand")


def seen(logits: np.ndarray) -> Seen:
    found = Seen(MADE)
    found.add(0, logits)
    return found


def test_what_was_stored_comes_back(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(MADE.bytes())
    read = SelfTest.read(tmp_path / "t")
    assert read.reference == "by hand"
    assert all(np.array_equal(getattr(read, name), getattr(MADE, name))
               for name in ("ids", "top_ids", "top_logits", "log_sum_exp"))
    wanted = logits_of(IDS)
    assert np.array_equal(read.top_ids[..., 0], wanted.argmax(-1))
    assert read.top_ids.shape == (3, 6, LIKELIEST)


def test_equal_logits_have_no_error() -> None:
    found = seen(logits_of(IDS))
    assert found.positions == 18
    assert found.relative_error < 1e-6
    assert found.kl_nats < 1e-9
    assert found.argmax_agreement(1e-4) == 1.0


def test_errors_of_likely_tokens_and_of_the_rest_are_both_seen() -> None:
    likely, rest = logits_of(IDS), logits_of(IDS)
    likely[1, 2, MADE.top_ids[1, 2, 3]] += 0.5
    rest[0, 0, logits_of(IDS)[0, 0].argmin()] += 20
    assert seen(likely).relative_error == pytest.approx(0.5 / seen(likely).largest_logit, rel=1e-3)
    assert seen(rest).relative_error > 1e-2
    assert seen(rest).argmax_agreement(1e-4) < 1.0


def test_the_coarse_kl_is_below_the_whole_and_near_it() -> None:
    wanted, noise = logits_of(IDS), np.random.default_rng(1).normal(size=(3, 6, 50))
    for scale in (0.01, 0.1, 1.0):
        found = wanted + scale * noise
        whole = float(kl_divergence(log_softmax(wanted), log_softmax(found)).mean())
        assert 0.4 * whole < seen(found).kl_nats <= whole * (1 + 1e-4)


def test_nan_is_an_error_and_not_a_number() -> None:
    broken = logits_of(IDS)
    broken[0, 0, 0] = np.nan
    with pytest.raises(ValidationFailed, match="NaN"):
        seen(broken)


@pytest.mark.parametrize("change", ["shape", "schema", "missing", "garbage"])
def test_what_is_no_self_test_is_refused(tmp_path: Path, change: str) -> None:
    tensors = {"ids": MADE.ids, "top_ids": MADE.top_ids, "top_logits": MADE.top_logits, "log_sum_exp": MADE.log_sum_exp}
    schema = {"schema": "foldrank.selftest/1"}
    if change == "shape":
        tensors["top_ids"] = MADE.top_ids[:, :-1].copy()
    elif change == "schema":
        schema = {"schema": "another"}
    elif change == "missing":
        del tensors["ids"]
    save_file(tensors, tmp_path / "t", metadata=schema)
    if change == "garbage":
        (tmp_path / "t").write_bytes(b"x" * 40)
    with pytest.raises(BundleError):
        SelfTest.read(tmp_path / "t")


def test_products_of_a_gpu_have_the_bits_of_tf32_unless_told_otherwise() -> None:
    assert precision_of("fp32", Provider("cpu")) == "fp32"
    assert precision_of("fp32", Provider("cuda")) == "fp16"
    assert precision_of("fp32", Provider("cuda", {"use_tf32": "0"})) == "fp32"
    assert precision_of("bf16", Provider("cuda")) == "bf16"
    assert precision_of("fp32", Provider("cpu"), int8=True) == "int8"


def test_a_bundle_that_rounds_activations_says_so_in_its_self_test(tmp_path: Path) -> None:
    for int8 in (True, False):
        (tmp_path / "test").write_bytes(SelfTest.of(IDS, logits_of, "by hand", int8=int8).bytes())
        assert SelfTest.read(tmp_path / "test").int8 is int8


@pytest.fixture(scope="module")
def tested(specs_5m: Path, dense_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    copy = shutil.copytree(dense_5m, tmp_path_factory.mktemp("selftest") / "bundle")
    made = Bundle.open(copy)
    return add_selftest(made, reference_of(made, Checkpoint.open(specs_5m)), 0)


def test_a_bundle_passes_where_it_was_made(tested: Bundle) -> None:
    found = selftest(tested)
    assert found["verdict"] == "pass"
    assert [check["name"] for check in found["checks"]] == ["prefill", "cached_decode"]
    assert [check["positions"] for check in found["checks"]] == [256, 256]
    assert all(check["value"] < 1e-4 for check in found["checks"])
    assert Bundle.open(tested.path).manifest.files[FILE].bytes < 50_000


def test_a_wrong_reference_fails(tested: Bundle) -> None:
    test = SelfTest.read(tested.path / FILE)
    other = replace(test, top_logits=test.top_logits + np.float32(0.02))
    wrong = tested.with_files({FILE: other.bytes()})
    assert selftest(wrong)["verdict"] == "fail"
    tested.with_files({FILE: test.bytes()})


def test_it_runs_without_torch_and_says_so_on_the_command_line(tested: Bundle) -> None:
    program = ("import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'scipy')))\n"
               f"from foldrank.cli.main import main; main(['selftest', {str(tested.path)!r}])")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pass" in done.stdout
    assert "cached_decode" in done.stdout
