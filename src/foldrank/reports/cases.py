"""What a report asked, as cases that passed, failed or were not run: the form in which CI systems take results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from foldrank.reports.bench import Bench
from foldrank.reports.form import Gate
from foldrank.reports.validate import Validation


@dataclass(frozen=True)
class Case:
    """One question: `passed` is None where it was not run. `says`: value and limit in words."""

    group: str
    name: str
    passed: bool | None
    says: str


def of_validation(report: Validation) -> list[Case]:
    """Gates, what the graph proof asked, and weights that must be as they were."""
    kept = {"few_bits_kept": report.graph.few_bits_kept, "numbers_planned": report.graph.numbers_planned,
            "weights_kept": report.graph.weights_kept}
    return [
        *_gates(report.gates),
        *(Case("graph", check.name, check.passed, _figures(check.value, check.limit or report.graph.limit))
          for check in report.graph.checks or ()),
        *(Case("graph", name, found.passed, f"{found.compared} compared; differ: {', '.join(found.differ) or 'none'}")
          for name, found in kept.items() if found is not None),
    ]


def of_bench(report: Bench) -> list[Case]:
    """Gates, and of each measurement whether it was steady: an unsteady one is no failure, and is named."""
    rows = [Case("speed", f"{row.phase} {row.engine} batch {row.batch} prompt {row.prompt_tokens}",
                 None if row.stable is False else True,
                 f"{row.ratio:.3f} times as fast as dense [{row.ci95[0]:.3f}, {row.ci95[1]:.3f}]"
                 + (f"; unstable: {row.unstable_because}" if row.unstable_because else "")) for row in report.speedups]
    return [*_gates(report.gates), *rows]


def of_selftest(found: Mapping[str, Any]) -> list[Case]:
    """Its checks, and whether the tokenizer reads as it did."""
    return [
        *(Case("selftest", f"{check['name']} {check['measure']}", check["passed"],
               _figures(check["value"], check["limit"])) for check in found["checks"]),
        Case("selftest", "tokenizer", found["tokenizer"], "reads the text that came with the self-test as it did"),
    ]


def _gates(gates: Iterable[Gate]) -> list[Case]:
    return [Case("gate", gate.name, gate.passed, _figures(gate.value, gate.limit) + (f" ({gate.rule})" if gate.rule
                                                                                      else "")) for gate in gates]


def _figures(value: float | None, limit: float | None) -> str:
    measured = "not measured" if value is None else f"{value:.6g}"
    return measured if limit is None else f"{measured}, limit {limit:.6g}"
