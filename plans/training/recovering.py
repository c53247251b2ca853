"""Recovery from a checkpoint and a text: what the verb asks for, in windows of tokens and on a device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foldrank.errors import SourceError
from foldrank.model.facts import context_length, vocabulary
from foldrank.planfile.plan import Plan
from foldrank.plans.models.decoder import load_decoder
from foldrank.plans.texts import Text, Windows, cut_windows, load_tokenizer, read_text
from foldrank.plans.training.adapters import Kind
from foldrank.plans.training.recovery import WINDOW, Training, recover
from foldrank.progress import SILENT, Progress

if TYPE_CHECKING:
    from foldrank.model.checkpoint import Checkpoint

TOKENS = 262_144
"""Tokens of the text that are drawn, unless told otherwise."""

LEAST_TOKENS = 64
"""Fewer are no recovery."""

CHARACTERS = 8
"""Of text read for each token asked for: more than any tokenizer needs, and far less than a whole corpus."""


@dataclass(frozen=True)
class Recovery:
    """What is asked for; None takes the default. `text` None: the calibration text."""

    kind: Kind
    text: Path | None = None
    tokens: int | None = None
    steps: int | None = None
    bos: str = "auto"


def recovered(
    checkpoint: Checkpoint, plan: Plan, asked: Recovery, *, windows: Windows | None = None, seed: int = 0,
    device: str = "cpu", progress: Progress = SILENT,
) -> Plan:
    """Train the plan on windows drawn from the text, or those given. Raises SourceError, ValueError; see `recover`."""
    windows = windows or recovery_windows(checkpoint, asked, seed)
    opens = "" if windows.opening.bos is None else f" bos {windows.opening.bos}"
    training = Training(asked.kind) if asked.steps is None else Training(asked.kind, steps=asked.steps)
    decoder = load_decoder(checkpoint, device=device)
    return recover(
        decoder, plan, windows.ids, training, seed=seed,
        text=f"{windows.text.name} {windows.text.sha256}{opens}", progress=progress,
    ).plan


def recovery_windows(checkpoint: Checkpoint, asked: Recovery, seed: int) -> Windows:
    """At most `tokens` tokens in windows, from documents drawn over the whole text."""
    tokens = TOKENS if asked.tokens is None else asked.tokens
    context = context_length(checkpoint.config) or WINDOW
    window = min(WINDOW, context, max(2, tokens // 16))
    text = _drawn(read_text(asked.text, "calibration"), CHARACTERS * tokens, seed)
    tokenizer, count = load_tokenizer(checkpoint.path), max(2, tokens // window)
    found = cut_windows(
        text, tokenizer, window=window, windows=count, seed=seed, bos=asked.bos, rows=vocabulary(checkpoint.config),
        remedy=_remedy,
    )
    if len(found.ids) < 2:
        there = found.ids.size
        raise SourceError(text.where, f"gives one window of {window} tokens, recovery needs two", _remedy(there))
    return found


def _remedy(tokens: int) -> str:
    """Against a text of so many tokens: two windows or more, each a sixteenth of what is asked for."""
    longer = "give a longer one with --recover-text"
    fitting = 16 * (tokens // 2)
    return longer if fitting < LEAST_TOKENS else f"{longer}, or --recover-tokens {fitting}"


def _drawn(text: Text, characters: int, seed: int) -> Text:
    """Documents in random order, as many as hold that many characters."""
    order = np.random.default_rng(seed).permutation(len(text.documents))
    lengths = np.cumsum([len(text.documents[i]) for i in order])
    count = int(np.searchsorted(lengths, characters)) + 1
    return replace(text, documents=tuple(text.documents[i] for i in order[:count]))
