"""What the bench was asked to time and did not, with the reason."""

from __future__ import annotations

from typing import Any

from foldrank.reporting import lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.parts import Part, table


def absent(evidence: Evidence) -> list[Part]:
    """A row each for engines and peers that do not start here and for prompts beyond the context; nothing if none."""
    bench = evidence.bench
    rows = [
        *((name, str(reason)) for name, reason in sorted(lookup.pairs(bench, "method", "unavailable").items())),
        *((f"prompt {length:,.0f}", _too_long(evidence)) for length in _dropped(bench)),
        *((f"against {name}", str(reason))
          for name, reason in sorted(lookup.pairs(bench, "peers", "unavailable").items())),
    ]
    return [table(("not timed", "why"), "ll", [list(row) for row in rows])] if rows else []


def _dropped(bench: Any) -> list[float]:
    return lookup.numbers(bench, "method", "dropped_prompts")


def _too_long(evidence: Evidence) -> str:
    context = lookup.integer(evidence.genai_config, "model", "context_length")
    return "longer than the model's context" + (f" of {context:,} tokens" if context is not None else "")
