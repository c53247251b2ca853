"""A dense bundle to start from is the checkpoint's, or is refused before anything is computed."""

from pathlib import Path

import pytest

import foldrank
from foldrank.errors import BundleError
from foldrank.verbs import compress_stages
from foldrank.verbs.compress import bench_seconds


def test_the_dense_bundle_of_another_checkpoint_is_refused_early(
    dense_5m: Path, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compress_stages, "plan", lambda *_, **__: pytest.fail("the long work has begun"))
    with pytest.raises(BundleError, match=r"was not exported from checkpoint \(config.json differs\); leave --dense"):
        foldrank.compress(tiny_models / "llama" / "checkpoint", tmp_path / "out", methods=["slm:keep=0.75"],
                          dense=dense_5m)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("spent_s", "proofs_s", "bench_s"), [
    (300.0, 30.0, 105.0), (139.0, 33.0, 20.0), (60.0, 40.0, 0.0)])
def test_proofs_and_bench_are_a_third_of_all(spent_s: float, proofs_s: float, bench_s: float) -> None:
    found = bench_seconds(spent_s, proofs_s)
    assert found == pytest.approx(bench_s)
    assert proofs_s + found == pytest.approx((spent_s + found) / 3) or found == 0.0
