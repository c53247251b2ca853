"""Where a bundle's nodes run and what they take: ONNX Runtime's records of assignment and its profile of some steps.

On a GPU the profile's times are those of launching kernels, as the host sees them; its counts hold.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foldrank.runtime.decoding.decoder import CacheLayout, OrtDecoder
from foldrank.runtime.providers.provider import Provider
from foldrank.runtime.sessions.session import open_session

PROMPT, STEPS = 16, 8
"""Tokens read before, decoding steps profiled."""


def profiled(folder: Path, provider: Provider, *, threads: int | None = None) -> dict[str, Any]:
    """Decode STEPS tokens with ONNX Runtime's profiler on.

    Gives `nodes` per provider and `operators` per type, both after ONNX Runtime's optimisations, and of one decoding
    step: `step_us` by provider, `operator_us` by type, `memcpy` and `casts`, the nodes that copy between providers and
    that change types. Raises as `open_session` does.
    """
    with tempfile.TemporaryDirectory() as place:
        session = open_session(folder / "model.onnx", provider, threads=threads, spinning="in_runs",
                               profile=Path(place) / "profile")
        decoder = OrtDecoder(session, CacheLayout.of(session, folder))
        decoder.first(np.arange(1, PROMPT + 1)[None])
        for _ in range(STEPS):
            decoder.next()
        events = json.loads(Path(session.handle.end_profiling()).read_text(encoding="utf-8"))
    return {"nodes": session.placement, "operators": session.operators, "steps": STEPS, **summary(events, STEPS)}


def summary(events: Iterable[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """What the last `steps` runs of a profile took and held, per run."""
    events = list(events)
    runs = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event.get("name") == "model_run")
    begin = runs[-steps][0] if len(runs) >= steps else 0
    providers: dict[str, float] = defaultdict(float)
    operators: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for event in events:
        told = event.get("args", {})
        if event.get("cat") != "Node" or event["ts"] < begin or not event["name"].endswith("_kernel_time"):
            continue
        providers[told.get("provider", "")] += event["dur"] / steps
        operators[told.get("op_name", "")] += event["dur"] / steps
        counts[told.get("op_name", "")] += 1
    copies = sum(count for name, count in counts.items() if name.startswith("Memcpy"))
    return {
        "step_us": dict(providers), "operator_us": dict(sorted(operators.items(), key=lambda item: -item[1])),
        "memcpy": copies // steps, "casts": counts["Cast"] // steps,
    }
