"""The self-test passes on the bundle it was made for, and fails on a changed weight, a wrong cache and NaN."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from foldrank.bundle.bundle import Bundle
from foldrank.errors import BundleError, ValidationFailed
from foldrank.model.checkpoint import Checkpoint
from foldrank.runtime.proof.compare import kl_divergence, log_softmax
from foldrank.runtime.proof.selftest import FILE, LIKELIEST, Said, Seen, SelfTest
from foldrank.runtime.proof.ways import precision_on
from foldrank.runtime.providers.provider import Provider
from foldrank.verbs.reference import reference_of
from foldrank.verbs.selftest import add_selftest, selftest


def logits_of(ids: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(int(ids.sum()))
    return 4 * rng.normal(size=(*ids.shape, 50))


IDS = np.random.default_rng(0).integers(0, 50, (3, 6))
SAID = Said.of(IDS, logits_of)
MADE = SelfTest(SAID, "by hand", Said.of(IDS[:1], logits_of, 2), text="a b", text_ids=np.array([5, 7]))


def seen(logits: np.ndarray) -> Seen:
    found = Seen(SAID)
    found.add(0, logits)
    return found


def test_what_was_stored_comes_back(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(MADE.bytes())
    read = SelfTest.read(tmp_path / "t")
    assert (read.reference, read.limit, read.text, read.text_ids.tolist()) == ("by hand", 1e-5, "a b", [5, 7])
    for part in ("short", "long"):
        assert all(np.array_equal(getattr(getattr(read, part), entry.name), getattr(getattr(MADE, part), entry.name))
                   for entry in fields(Said))
    wanted = logits_of(IDS)
    assert np.array_equal(read.short.top_ids[..., 0], wanted.argmax(-1))
    assert read.short.top_ids.shape == (3, 6, LIKELIEST)
    assert read.long is not None
    assert (read.long.ids.shape, read.long.kept) == ((1, 6), 2)


def test_equal_logits_have_no_error() -> None:
    found = seen(logits_of(IDS))
    assert found.positions == 18
    assert found.relative_error < 1e-6
    assert found.kl_nats < 1e-9
    assert found.argmax_agreement(1e-4) == 1.0


def test_errors_of_likely_tokens_and_of_the_rest_are_both_seen() -> None:
    likely, rest = logits_of(IDS), logits_of(IDS)
    likely[1, 2, SAID.top_ids[1, 2, 3]] += 0.5
    rest[0, 0, logits_of(IDS)[0, 0].argmin()] += 20
    assert seen(likely).relative_error == pytest.approx(0.5 / seen(likely).largest_logit, rel=1e-3)
    assert seen(rest).relative_error > 1e-2
    assert seen(rest).argmax_agreement(1e-4) < 1.0


def test_two_unlikely_tokens_in_each_others_place_are_seen() -> None:
    """The likeliest and the sum over all stay as they were."""
    spoiled = logits_of(IDS)
    first, second = spoiled[2, 3].argsort()[:2]
    spoiled[2, 3, [first, second]] = spoiled[2, 3, [second, first]] + [0.5, 0.0]
    assert seen(spoiled).relative_error > 1e-3


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


@pytest.mark.parametrize("change", ["shape", "schema", "missing", "garbage", "limit"])
def test_what_is_no_self_test_is_refused(tmp_path: Path, change: str) -> None:
    (tmp_path / "whole").write_bytes(MADE.bytes())
    with safe_open(tmp_path / "whole", framework="np") as file:
        told, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if change == "shape":
        tensors["short.top_ids"] = tensors["short.top_ids"][:, :-1].copy()
    elif change == "schema":
        told["schema"] = "another"
    elif change == "missing":
        del tensors["short.sums"]
    elif change == "limit":
        told["limit"] = "0.5"
    save_file(tensors, tmp_path / "t", metadata=told)
    if change == "garbage":
        (tmp_path / "t").write_bytes(b"x" * 40)
    with pytest.raises(BundleError):
        SelfTest.read(tmp_path / "t")


def test_products_of_a_gpu_have_the_bits_of_tf32_unless_told_otherwise() -> None:
    assert precision_on(Provider("cpu"), "fp32") == "fp32"
    assert precision_on(Provider("cuda"), "fp32") == "fp16"
    assert precision_on(Provider("cuda", {"use_tf32": "0"}), "fp32") == "fp32"
    assert precision_on(Provider("cuda"), "bf16") == "bf16"
    assert precision_on(Provider("cpu"), "int8") == "int8"


@pytest.fixture(scope="module")
def tested(specs_5m: Path, dense_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    copy = shutil.copytree(dense_5m, tmp_path_factory.mktemp("selftest") / "bundle")
    made = Bundle.open(copy)
    return add_selftest(made, reference_of(made, Checkpoint.open(specs_5m)), 0)


def test_a_bundle_passes_where_it_was_made(tested: Bundle) -> None:
    found = selftest(tested)
    assert found["verdict"] == "pass"
    assert [check["name"] for check in found["checks"]] == ["prefill", "cached_decode", "full_context"]
    assert [check["positions"] for check in found["checks"]] == [256, 256, 64]
    assert all(check["value"] < 1e-5 for check in found["checks"])
    assert found["tokenizer"] is True
    assert Bundle.open(tested.path).manifest.files[FILE].bytes < 50_000


def test_a_wrong_reference_fails(tested: Bundle) -> None:
    test = SelfTest.read(tested.path / FILE)
    other = replace(test, short=replace(test.short, top_logits=test.short.top_logits + np.float32(0.002)))
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
