"""What the bench was asked to time and did not, with the reason."""

from __future__ import annotations

from foldrank.reporting import lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.parts import Part, table
from foldrank.reports.bench import Bench


def absent(evidence: Evidence, bench: Bench) -> list[Part]:
    """A row each for engines and peers that do not start here, for prompts beyond the context, and for what no time was
    left for; nothing if none."""
    missing = sorted(bench.method.unavailable.items()) if bench.method else []
    peers = sorted(bench.peers.unavailable.items()) if bench.peers else []
    dropped = bench.method.dropped_prompts if bench.method else []
    left_out = sorted(bench.method.left_out.items()) if bench.method else []
    rows = [
        *missing, *left_out,
        *((f"prompt {length:,}", _too_long(evidence)) for length in dropped),
        *((f"against {name}", reason) for name, reason in peers),
    ]
    return [table(("not timed", "why"), "ll", [list(row) for row in rows])] if rows else []


def _too_long(evidence: Evidence) -> str:
    context = lookup.integer(evidence.genai_config, "model", "context_length")
    return "longer than the model's context" + (f" of {context:,} tokens" if context is not None else "")
