"""Small random decoders whose shapes tell every axis apart: width 42, query 48, key 16, MLP 72."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_families
from tiny_families import TINY

from foldrank.plans.models.decoder import Decoder
from foldrank.plans.solver.costs import Numbers
from foldrank.plans.solver.expected import Expected
from foldrank.plans.solver.meter import Meter
from foldrank.plans.solver.moves import Terms
from foldrank.plans.solver.original import Original, shapes_of
from foldrank.plans.solver.search import Effort, Search

EFFORT = Effort(8, 8, 8, (0.5,))


def random_model(blocks: int = 5, *, seed: int = 0, architecture: str = "llama", spread: float = 0.25) -> Any:
    """A random grouped-query model in float32; Qwen2 has biases."""
    sizes = {
        "hidden_size": 42, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 72,
        "num_hidden_layers": blocks, "vocab_size": 61, "max_position_embeddings": 64, "initializer_range": spread,
    }
    return tiny_families.random_model(replace(TINY[architecture], options=sizes), seed=seed)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """`random_model`."""
    return random_model


@pytest.fixture(scope="session")
def ids() -> np.ndarray:
    """Six windows of 24 tokens, fewer tokens in a window than channels."""
    return np.random.default_rng(3).integers(0, 61, size=(6, 24))


@pytest.fixture(scope="session")
def make_search() -> Callable[..., Search]:
    """A search of the solver, joint sites, widths in steps of 8, budget in numbers: from windows that measure and
    windows that fit."""
    def made(
        decoder: Decoder, measuring: np.ndarray, fitting: np.ndarray, effort: Effort = EFFORT
    ) -> Search:
        expected = Expected.of(decoder, fitting, 0, "joint", 8)
        terms = Terms(shapes_of(decoder.blocks[0], "joint"), Numbers(), expected.curves, 1, lambda _shape, _rank: True,
                      lambda _low, _high: True, expected.narrowings, drops=True)
        original = Original.of(decoder, fitting, expected.roots, "joint", expected.orders, expected.streams)
        return Search(original, Meter.of(decoder, measuring), terms, effort, 0.5)

    return made


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's plans keep their findings."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("FOLDRANK_NO_CACHE", raising=False)
    return tmp_path / "foldrank" / "plans"
