"""Gates and the verdict. The two proofs stay apart: neither excuses the other, and what was not run never passes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from foldrank.reports.form import Gate, Verdict
from foldrank.reports.validate import GraphProof, Quality


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
    graph: GraphProof, quality: Quality, *, max_perplexity_increase: float | None, min_top1_agreement: float | None,
) -> list[Gate]:
    """Each gate with its limit and value; the graph proof is always one of them, with `passed` null if not run."""
    found = [Gate(name="graph_proof", limit=graph.limit, value=graph.value, passed=graph.passed)]
    if max_perplexity_increase is not None:
        increase = quality.perplexity_ratio - 1
        found.append(Gate(name="max_perplexity_increase", limit=max_perplexity_increase, value=increase,
                          passed=increase <= max_perplexity_increase))
    if min_top1_agreement is not None:
        agreement = quality.top1_agreement
        found.append(Gate(name="min_top1_agreement", limit=min_top1_agreement, value=agreement,
                          passed=agreement >= min_top1_agreement))
    return found


def verdict(found: Sequence[Gate]) -> Verdict:
    """`fail` where a gate failed."""
    return "fail" if any(gate.passed is False for gate in found) else "pass"
