"""How long a window a model can use: from losses drawn by hand, and of the two committed models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foldrank.model.checkpoint import Checkpoint
from foldrank.model.context import SHORTEST, usable_window
from foldrank.model.opening import PLAIN
from foldrank.plans.calibration import calibration_windows, usable
from foldrank.plans.models.decoder import load_decoder
from foldrank.plans.models.losses import mean_loss
from foldrank.plans.texts import Windows, cut_windows, load_tokenizer, read_text


def losses(tokens: int, good: int, rise: float) -> np.ndarray:
    """Early tokens a little harder, as they are; beyond `good` worse by `rise`."""
    position = np.arange(tokens - 1)
    return 3 + np.exp(-position / 8) + np.where(position >= good, rise, 0)


@pytest.mark.parametrize(
    ("tokens", "good", "rise", "wanted"),
    [(512, 512, 0, 512), (512, 256, 2, 256), (512, 128, 1, 128), (512, 256, 0.1, 512), (512, 40, 3, SHORTEST),
     (512, 40, 0.2, 512), (100, 50, 9, 100), (129, 64, 9, 64), (1000, 250, 1, 250), (2, 1, 5, 2)],
)
def test_the_longest_window_without_a_rise(tokens: int, good: int, rise: float, wanted: int) -> None:
    assert usable_window(losses(tokens, good, rise)) == wanted


def test_noise_alone_does_not_cut() -> None:
    noise = np.random.default_rng(0).normal(5, 4, size=(200, 511))
    cut = sum(usable_window(row) < 512 for row in noise)
    assert cut <= 12  # two standard errors, one side: one in 44, and where the rise is above 0.25
    assert all(usable_window(row + np.where(np.arange(511) < 256, 0, 3)) == 256 for row in noise[:20])


def test_cut_windows_hold_the_same_tokens_in_order() -> None:
    ids = np.arange(3 * 10).reshape(3, 10)
    assert np.array_equal(PLAIN.cut_to(ids, 5), ids.reshape(6, 5))
    assert np.array_equal(PLAIN.cut_to(ids, 4), ids[:, :8].reshape(6, 4))
    assert PLAIN.cut_to(ids, 10) is not None
    assert np.array_equal(PLAIN.cut_to(ids, 10), ids)


def test_a_model_trained_on_windows_of_256_is_found_out(specs_5m: Path) -> None:
    checkpoint = Checkpoint.open(specs_5m)
    assert checkpoint.config["max_position_embeddings"] >= 1024
    windows = calibration_windows(checkpoint, None, 8192, 0)
    assert windows.ids.shape == (16, 512)
    used = usable(load_decoder(checkpoint), windows)
    assert used.ids.shape == (32, 256)
    assert np.array_equal(used.ids.reshape(-1), windows.ids.reshape(-1))


def windows_of_validation(checkpoint: Checkpoint) -> Windows:
    tokenizer = load_tokenizer(checkpoint.path)
    return cut_windows(read_text(None, "validation"), tokenizer, window=512, windows=16, seed=None)


def test_a_model_trained_on_its_whole_context_keeps_its_windows(root: Path) -> None:
    checkpoint = Checkpoint.open(root / "examples" / "specs-5m-mature")
    windows = calibration_windows(checkpoint, None, 8192, 0)
    decoder = load_decoder(checkpoint)
    assert usable(decoder, windows).ids.shape == windows.ids.shape == (16, 512)
    held_out = usable(decoder, windows_of_validation(checkpoint)).ids
    assert held_out.shape[1] == 512
    assert 10 < np.exp(mean_loss(decoder, decoder.forward(held_out), held_out)) < 18
