"""What a prompt may be: it has tokens, and the model has room for one more behind it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foldrank.errors import SourceError


def check_prompts(folder: Path, lengths: Sequence[int], context: int) -> None:
    """Every prompt has tokens and leaves room for one more. Raises SourceError naming all that do not, from 1."""
    reasons = [
        ("the prompt" if len(lengths) == 1 else f"prompt {number}")
        + (f" has {length} tokens, the model looks at {context}" if length else " has no tokens")
        for number, length in enumerate(lengths, start=1) if not 0 < length < context
    ]
    if reasons:
        raise SourceError(folder, " | ".join(reasons), "give a prompt with text, shorter than what the model sees")
