"""The tasks of `validate --tasks`: made from the held-out text, run by lm-eval, chat answers beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldrank.bundle.bundle import Bundle
from foldrank.errors import SourceError
from foldrank.installed import require
from foldrank.model.facts import context_length
from foldrank.plans.texts import Text, load_tokenizer
from foldrank.progress import SILENT, Progress
from foldrank.reports.tasks import NEEDED, Tasks
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.tasks import measured
from foldrank.runtime.tasks.chat import compared
from foldrank.runtime.tasks.items import CHOICES, made

ITEMS = 100
"""Of a task: an accuracy of a half has a standard error of 0.05."""

_WORDS = 60
_CONTEXT = 512
"""Where the context is shorter, passages are: byte by byte a word may be ten tokens."""


def check_tasks() -> None:
    """Raise ProviderUnavailable where what runs the tasks is not installed."""
    require(NEEDED)


def measure(
    small: Bundle, dense: Bundle, text: Text, decoders: tuple[OrtDecoder, OrtDecoder], *, seed: int, provider: str,
    progress: Progress = SILENT,
) -> Tasks:
    """Run all of them on both; `decoders` of (dense, small) answer the questions. Raises SourceError where the text is
    too short for any task of its own words, or lm-eval fails."""
    check_tasks()
    context = context_length(small.json("config.json")) or _CONTEXT
    words = _WORDS if context >= _CONTEXT else max(10, context * _WORDS // _CONTEXT)
    documents = [document for document in text.documents if isinstance(document, str)]
    chosen = made(documents, count=ITEMS, length=words, seed=seed)
    if not chosen["continuation"]:
        raise SourceError(text.where, f"is too short to make tasks of: they need passages of {words} words",
                          "give --text a longer file")
    found = measured.run(dense.path, small.path, chosen, provider=provider, context=context, progress=progress)
    tokenizer: Any = load_tokenizer(Path(small.path))
    return Tasks(
        rows=measured.rows(found, seed), chat=compared(*decoders, tokenizer, context=context, progress=progress),
        choices=CHOICES, seed=seed, lm_eval=found["lm_eval"], missing=found["missing"],
    )
