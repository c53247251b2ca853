"""Gates and the verdict. The two proofs stay apart: neither excuses the other, and what was not run never passes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SCHEMA = "foldrank.validate/1"

NOT_RUN: dict[str, Any] = {
    "reference": "not run", "positions": 0, "max_relative_error": None, "argmax_agreement": None, "kl_nats": None,
    "passed": None,
}
"""The `graph` part where the proof was not asked for: never a pass."""


def blame(fault: str | None) -> str:
    """Who is at fault for a failed graph proof, to be put behind that."""
    told = {"export": ": the dense export is at fault, it is not the checkpoint's model either",
            "plan": ": the plan or its passes are at fault, the dense export is the checkpoint's model"}
    return told.get(fault or "", "")


def share(value: str | float | None) -> float | None:
    """`"5%"`, `"0.05"` and 0.05 are the same. Raises ValueError."""
    if value is None:
        return None
    text = str(value).strip()
    number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{value!r} is not a share of 0 or more")
    return number


def gates(
    graph: Mapping[str, Any], quality: Mapping[str, Any], *, max_perplexity_increase: float | None,
    min_top1_agreement: float | None,
) -> list[dict[str, Any]]:
    """Each gate with its limit and value; the graph proof is always one of them, with `passed` null if not run."""
    value = graph["kl_nats"] if graph.get("measure") == "kl_nats" else graph["max_relative_error"]
    found = [_gate("graph_proof", graph.get("limit"), value, graph["passed"])]
    if max_perplexity_increase is not None:
        increase = quality["perplexity_ratio"] - 1
        found.append(_gate("max_perplexity_increase", max_perplexity_increase, increase,
                           increase <= max_perplexity_increase))
    if min_top1_agreement is not None:
        agreement = quality["top1_agreement"]
        found.append(_gate("min_top1_agreement", min_top1_agreement, agreement, agreement >= min_top1_agreement))
    return found


def verdict(found: list[dict[str, Any]]) -> str:
    """`fail` where a gate failed."""
    return "fail" if any(gate["passed"] is False for gate in found) else "pass"


def _gate(name: str, limit: float | None, value: float | None, passed: bool | None) -> dict[str, Any]:
    return {"name": name, "limit": limit, "value": value, "passed": passed}
