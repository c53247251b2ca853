"""A checkpoint whose config.json ties the head to an embedding that its weights do not tie, said so for exporters.

They believe config.json: one would embed with the head, another would take the embedding for the head.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from foldrank.checkpoint import Checkpoint
from foldrank.readable import link_files

_TIED = "tie_word_embeddings"


@contextlib.contextmanager
def untied(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    """The same checkpoint in a folder of links, its config.json untied; both gone when the work is done."""
    config = {**checkpoint.config, _TIED: False}
    if isinstance(inner := config.get("text_config"), dict):
        config["text_config"] = {**inner, _TIED: False}
    with tempfile.TemporaryDirectory(prefix="foldrank.") as made:
        folder = Path(made)
        link_files(checkpoint.path, folder)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield dataclasses.replace(checkpoint, path=folder, config=config)
