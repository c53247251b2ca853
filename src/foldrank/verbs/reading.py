"""The texts that a verb reads, in windows. Cut before the long work: what cannot serve is told first.

Knows tokenizers by their folder, and of models what config.json says.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldrank.model.facts import context_length, vocabulary
from foldrank.plans.texts import Windows, cut_windows, load_tokenizer, read_text

if TYPE_CHECKING:
    from foldrank.model.checkpoint import Checkpoint
    from foldrank.plans.training.recovering import Recovery

_WINDOW = 512


def held_out(
    folder: Path, config: Any, text: str | Path | None, *, tokens: int, seed: int, bos: str = "auto"
) -> Windows:
    """At most `tokens` tokens of held-out text, default the installed one, in windows of 512 or of the context, if that
    is shorter. `folder` holds the tokenizer. Raises SourceError, ValueError."""
    window = min(_WINDOW, context_length(config) or _WINDOW)
    return cut_windows(
        read_text(None if text is None else Path(text).expanduser(), "validation"), load_tokenizer(folder),
        window=window, windows=max(1, tokens // window), seed=seed, bos=bos, rows=vocabulary(config),
        remedy=lambda _: f"give --text a file of {window} tokens or more",
    )


def chosen_text(
    calibration: str | Path | None, corpus: str | Path | None, like: str | Path | None
) -> str | Path | None:
    """Where calibration text comes from. Raises ValueError: from two places, or from a corpus or like a text alone."""
    if (corpus is None) != (like is None) or (corpus is not None and calibration is not None):
        raise ValueError("calibration: a corpus and a text to be like go together, in the place of a calibration text; "
                         "give --calibration-from CORPUS and --like TEXT, or --calibration")
    return calibration if corpus is None else corpus


def planning(
    checkpoint: Checkpoint, calibration: str | Path | None, tokens: int | None, asked: Recovery | None, *, seed: int,
    bos: str = "auto", like: str | Path | None = None,
) -> tuple[Windows, Windows | None]:
    """Calibration windows, and recovery's where that is asked for. `like`: a text whose likes among the calibration's
    documents are taken. Raises SourceError, ValueError."""
    from foldrank.plans.calibration import calibration_windows
    from foldrank.plans.training.recovering import recovery_windows

    path, other = (None if given is None else Path(given).expanduser() for given in (calibration, like))
    windows = calibration_windows(checkpoint, path, tokens, seed, bos=bos, like=other)
    return windows, None if asked is None else recovery_windows(checkpoint, asked, seed)
