"""Recovery from a checkpoint and a text: what the verb asks for, in windows of tokens and on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foldrank.digests import sha256_array
from foldrank.edits.base import Part, Phase, parts_of
from foldrank.errors import SourceError
from foldrank.model.facts import context_length, vocabulary
from foldrank.planfile.plan import Plan
from foldrank.plans.likeness import read_like
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shelf import Shelf
from foldrank.plans.texts import Text, Windows, cut_windows, load_tokenizer, read_text
from foldrank.plans.training.adapters import Kind
from foldrank.plans.training.gradients import Target
from foldrank.plans.training.recovery import WINDOW, Training, recover
from foldrank.plans.training.sampling import Select
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
    """What is asked for; None takes the default. `text` None: the calibration text; `kind` None: what suits the
    plan."""

    kind: Kind | None
    text: Path | None = None
    tokens: int | None = None
    steps: int | None = None
    bos: str = "auto"
    minutes: float | None = None
    target: Target = "logits"
    select: Select = "random"
    lisa: int = 0
    like: Path | None = None
    """A text whose likes among the documents of `text` are taken."""

    def training(self, plan: Plan, roles: Sequence[str]) -> Training:
        """The settings for a plan of a model whose blocks have these roles."""
        options: dict[str, Any] = {"target": self.target, "select": self.select, "lisa": self.lisa}
        kind = self.kind or suited(plan, roles)
        if self.minutes is not None:
            return Training.within(self.minutes, kind, **options)
        return Training(kind, **options) if self.steps is None else Training(kind, steps=self.steps, **options)


def suited(plan: Plan, roles: Sequence[str]) -> Kind:
    """The kind that trains what the plan changed: its narrower MLPs, else its matrices, else the scales of blocks that
    are in few bits and as they were otherwise, or rotated, else everything a little. `roles`: of a block of the
    source."""
    if any(edit.phase is Phase.WIDTHS for edit in plan.edits):
        return "sliced"
    if plan.at_sites or any(edit.ends for edit in plan.edits):
        return "factors"
    stored = frozenset[Part]().union(*(e.touch.writes for e in plan.edits if e.phase is Phase.STORAGE))
    alone = all(edit.phase in (Phase.NORMS, Phase.ROTATION, Phase.STORAGE) for edit in plan.edits)
    return "scales" if alone and parts_of(range(plan.document.source.blocks), roles) <= stored else "lora"


def recovered(
    decoder: Decoder, plan: Plan, shelf: Shelf, *, asked: Recovery, windows: Windows, seed: int = 0,
    progress: Progress = SILENT,
) -> Plan:
    """Train the plan of this dense model on the windows; `shelf`: where what was reached lies, should it be cut short.
    Raises ValueError; see `recover`."""
    training = asked.training(plan, decoder.family.roles)
    stage = shelf.under(f"recover {training!r} {windows.ids.shape} {sha256_array(windows.ids)} {plan.document.text()}")
    opens = "" if windows.opening.bos is None else f" bos {windows.opening.bos}"
    return recover(
        decoder, plan, windows.ids, training, seed=seed,
        text=f"{windows.text.name} {windows.text.sha256}{opens}", shelf=stage, progress=progress,
    ).plan


def recovery_windows(checkpoint: Checkpoint, asked: Recovery, seed: int) -> Windows:
    """At most `tokens` tokens in windows, from documents drawn over the whole text."""
    tokens = TOKENS if asked.tokens is None else asked.tokens
    context = context_length(checkpoint.config) or WINDOW
    window = min(WINDOW, context, max(2, tokens // 16))
    characters = CHARACTERS * tokens
    if asked.text is not None and asked.like is not None:
        text = read_like(asked.text, asked.like, characters, seed)
    else:
        text = _drawn(read_text(asked.text, "calibration"), characters, seed)
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
