"""One way to name what was timed: `decode, genai, context 512, batch 1`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PARTS = (
    ("phase", ""),
    ("engine", ""),
    ("prompt_tokens", "prompt "),
    ("context_tokens", "context "),
    ("batch", "batch "),
)


def workload(row: Mapping[str, Any]) -> str:
    """What is known of a row's workload. A prompt belongs to prefill, a context to decode."""
    phase = row.get("phase")
    left_out = {"prefill": "context_tokens", "decode": "prompt_tokens"}.get(str(phase))
    if left_out is None and row.get("prompt_tokens") == row.get("context_tokens"):
        left_out = "context_tokens"
    return ", ".join(
        f"{label}{value if isinstance(value, str) else f'{value:,g}'}"
        for key, label in _PARTS
        if key != left_out and isinstance(value := row.get(key), str | int | float) and not isinstance(value, bool)
    )
