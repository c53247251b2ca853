"""A dense bundle to start from is the checkpoint's, or is refused before anything is computed."""

from pathlib import Path

import pytest

import foldrank
from foldrank.errors import BundleError
from foldrank.verbs import compress_stages


def test_the_dense_bundle_of_another_checkpoint_is_refused_early(
    dense_5m: Path, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compress_stages, "plan", lambda *_, **__: pytest.fail("the long work has begun"))
    with pytest.raises(BundleError, match=r"was not exported from checkpoint \(config.json differs\); leave --dense"):
        foldrank.compress(tiny_models / "llama" / "checkpoint", tmp_path / "out", methods=["slm:keep=0.75"],
                          dense=dense_5m)
    assert list(tmp_path.iterdir()) == []
