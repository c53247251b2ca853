"""The calibration text in windows of token ids, as a plan is computed on them, and what a plan says of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from foldrank.model import context
from foldrank.model.facts import context_length, vocabulary
from foldrank.planfile.document import Calibration
from foldrank.plans.likeness import read_like
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.losses import position_losses
from foldrank.plans.texts import Windows, cut_windows, load_tokenizer, read_text

if TYPE_CHECKING:
    from foldrank.model.checkpoint import Checkpoint

WINDOW = 512
"""Tokens of a calibration window, or fewer where the model cannot use so many (`usable`)."""

CALIBRATION_TOKENS = 24_576
"""Default calibration: 48 windows."""

CHARACTERS = 8
"""Of documents like a text read for each token asked for: more than most tokenizers need."""

LEAST_TOKENS = 16
"""Fewer are no calibration."""


def calibration_windows(
    checkpoint: Checkpoint, path: Path | None, tokens: int | None, seed: int, *, bos: str = "auto",
    like: Path | None = None,
) -> Windows:
    """The calibration windows: at most `tokens` tokens, drawn over the whole text, or over its documents that are most
    `like` another one's. Raises SourceError, ValueError."""
    asked = CALIBRATION_TOKENS if tokens is None else tokens
    if asked < LEAST_TOKENS:
        raise ValueError(f"calibration tokens: {asked} are too few; give {LEAST_TOKENS} or more")
    context = context_length(checkpoint.config) or WINDOW
    window = min(WINDOW, context, asked)
    tokenizer = load_tokenizer(checkpoint.path)
    if path is not None and like is not None:
        text = read_like(path, like, CHARACTERS * asked, seed)
    else:
        text = read_text(path, "calibration")
    return cut_windows(
        text, tokenizer, window=window, windows=asked // window, seed=seed, bos=bos,
        rows=vocabulary(checkpoint.config), remedy=_remedy,
    )


def _remedy(tokens: int) -> str:
    """Against a calibration text of so many tokens."""
    longer = "give a longer one with --calibration"
    return longer if tokens < LEAST_TOKENS else f"{longer}, or --calibration-tokens {tokens}"


def usable(decoder: Decoder, windows: Windows) -> Windows:
    """The same tokens in windows that the model can use: shorter ones where it was trained on shorter ones."""
    ids = context.usable(windows.ids, partial(position_losses, decoder), opening=windows.opening)
    return replace(windows, ids=ids)


def described(windows: Windows, shards: int) -> Calibration:
    """As it stands in the plan; `shards`: parts that sums over the windows were made in."""
    count, window = windows.ids.shape
    return Calibration(
        name=windows.text.name, sha256=windows.text.sha256, windows=count, window=window, tokens=count * window,
        seed=windows.seed, bos=windows.opening.bos, shards=shards if shards > 1 else None,
    )
