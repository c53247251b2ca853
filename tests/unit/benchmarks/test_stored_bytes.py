"""Bytes of a planned model, as the campaigns on a real one count them."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from tiny_families import TINY, random_model

from foldrank.plans.compose import parse_all, run_all
from foldrank.plans.models.decoder import Decoder


@pytest.mark.parametrize("method", [
    "recursive:group=2", "recursive:group=2,rank=3", "svd:keep=0.5", "basis_sharing:keep=0.5", "slm:keep=0.75",
    "width:keep=0.8"])
def test_what_blocks_share_counts_once_and_pairs_beside_count(
    root: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.syspath_prepend(root / "benchmarks" / "campaigns")
    stored = importlib.import_module("smollm2").stored
    decoder = Decoder.of(random_model(TINY["llama"], seed=0))
    ids = np.random.default_rng(0).integers(0, decoder.vocabulary, (4, 32))
    result = run_all(decoder, parse_all([method]), ids, seed=0)[-1].result
    assert stored(result, decoder) == 4 * numbers(result.decoder) < 4 * numbers(decoder)


def numbers(decoder: Decoder) -> int:
    """All that the model stores: sites, norms and biases beside them, and what lies outside the blocks."""
    beside = sum(block.parameters - block.site_parameters for block in decoder.blocks)
    return decoder.stored_parameters + beside + decoder.other_parameters
