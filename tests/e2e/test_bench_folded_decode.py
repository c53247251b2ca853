"""The folded-decode program on a model small enough for a test: whole way, right ideal, a verdict. Not its speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from foldrank.benchmarks.folded_decode import Settings, folded_decode
from foldrank.benchmarks.random_checkpoint import shape_of


@pytest.mark.slow
def test_folds_a_third_of_a_random_models_blocks_and_measures_it(tmp_path: Path) -> None:
    found = folded_decode(tmp_path, Settings(10**6, contexts=(16,), pairs=20, launches=1))
    shape = shape_of(10**6)
    outer = shape.vocabulary * shape.hidden + shape.hidden
    block = (shape.parameters - outer) // shape.blocks
    assert {entry["engine"] for entry in found["decoding"]} == {"genai", "onnxruntime"}
    for entry in found["decoding"]:
        assert entry["ideal"] == pytest.approx((12 * block + outer) / (8 * block + outer), rel=0.05)
        assert 0.2 < entry["realised_over_ideal"] < 5
    assert found["reached"] in (True, False)
    assert len(found["benches"]["fold"]["null_test"]["rows"]) == 4
