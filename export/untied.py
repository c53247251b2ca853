"""A checkpoint whose config.json ties the head to an embedding that its weights do not tie, said so for exporters.

They believe config.json: one would embed with the head, another would take the embedding for the head.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

from foldrank.model.checkpoint import Checkpoint
from foldrank.model.readable import fill

_TIED = "tie_word_embeddings"


@contextlib.contextmanager
def untied(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    """The same checkpoint in a folder of links, its config.json untied; both gone when the work is done."""
    config = {**checkpoint.config, _TIED: False}
    if isinstance(inner := config.get("text_config"), dict):
        config["text_config"] = {**inner, _TIED: False}
    with tempfile.TemporaryDirectory(prefix="foldrank.") as made:
        fill(Path(made), checkpoint, config)
        yield dataclasses.replace(checkpoint, path=Path(made), config=config)
