"""One way to name what was timed: `decode, genai, context 512, batch 1`."""

from __future__ import annotations

from foldrank.reports.bench import Row, Speedup


def workload(row: Row | Speedup) -> str:
    """What is known of a row's workload. A prompt belongs to prefill, a context to decode."""
    prompt, context = row.prompt_tokens, row.context_tokens
    if isinstance(row, Row):
        return told(row.engine, prompt, None if prompt == context else context, row.batch)
    decoding = row.phase == "decode"
    parts = told(row.engine, None if decoding else prompt, context if decoding else None, row.batch)
    return ", ".join(filter(None, (row.phase, parts)))


def told(engine: str | None, prompt: int | None, context: int | None, batch: int | None) -> str:
    """What is not None, with words for what the numbers are."""
    counts = {"prompt": prompt, "context": context, "batch": batch}
    numbers = [f"{name} {count:,g}" for name, count in counts.items() if count is not None]
    return ", ".join([*([] if engine is None else [engine]), *numbers])
