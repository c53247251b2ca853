"""A graph that is told no positions numbers tokens by place: rows may be padded on one side only, which is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.proof.graph_proof import beside_padding
from foldrank.runtime.providers.provider import resolve
from foldrank.verbs.export import export

pytest.importorskip("onnxruntime")


def test_optimums_gemma2_is_padded_on_the_left_alone(tiny_models: Path, tmp_path: Path) -> None:
    """On the right the next token takes the place after the padding: its rotation is another."""
    tiny = tiny_models / "gemma2"
    bundle = export(tiny / "checkpoint", tmp_path / "out", exporter="optimum", graph=tiny / "optimum")
    assert bundle.manifest.padding == ["left"]
    decoder = OrtDecoder.open(bundle.path, resolve("cpu"), threads=1)
    assert "position_ids" not in decoder.session.inputs
    ids = np.random.default_rng(0).integers(0, 260, (2, 40))
    assert beside_padding(decoder, ids, "left").relative_error < 1e-5
    assert beside_padding(decoder, ids, "right").relative_error > 1e-3  # 2e-2 measured
