"""What leads the page: the verdict says no more than was shown, and what is unsure is marked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_words import words
from sample_reports import short_benchmark, validation

from foldrank.reporting.page import compose

Maker = Callable[..., Path]
NOT_RUN = {"reference": "not run", "positions": 0, "max_relative_error": None, "argmax_agreement": None,
           "kl_nats": None, "passed": None}


def _validation(ratio: float = 1.02, *, proof: bool | None = True, **changes: Any) -> dict[str, Any]:
    report = validation()
    graph = NOT_RUN if proof is None else {**report["graph"], "passed": proof}
    quality = {**report["quality"], "perplexity_ratio": ratio}
    return {**report, "graph": graph, "quality": quality, "gates": [], **changes}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("report", "word", "reason"),
    [
        (_validation(), "Proved", "no gates were set"),
        (_validation(1.45), "! Proved", "no gates were set; perplexity +45.0 %"),
        (_validation(1.02), "Proved", "no gates were set; perplexity +2.0 %"),
        (_validation(proof=False, verdict="fail"), "✗ Failed", "does not compute what the plan says"),
        (_validation(proof=None), "! Not proved", "the graph proof was not run; no gates were set"),
        (_validation(verdict="fail"), "✗ Failed", "the graph computes what the plan says."),
        (
            _validation(
                gates=[{"name": "min_top1_agreement", "limit": 0.9, "value": 0.8, "passed": False}], verdict="fail"
            ),
            "✗ Failed",
            "min top1 agreement is 80.00 %, its limit 90.00 %",
        ),
    ],
)
def test_the_verdict_says_no_more_than_was_shown(make_bundle: Maker, report: Any, word: str, reason: str) -> None:
    top = words(compose(make_bundle({"reports/validate.json": report})).html)
    assert word in top
    assert reason in top


@pytest.mark.usefixtures("undrawn")
def test_a_gate_on_speed_says_nothing_of_quality(make_bundle: Maker) -> None:
    bench = {**short_benchmark(), "gates": [{"name": "min_speedup genai", "limit": 1.1, "value": 1.2, "passed": True}]}
    report = _validation(1.45)
    top = words(compose(make_bundle({"reports/bench.json": bench, "reports/validate.json": report})).html)
    assert "! Proved" in top
    assert "every gate holds, none is on quality; perplexity +45.0 %" in top


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_a_gate_ended_says_that_speed_was_not_measured(make_bundle: Maker) -> None:
    gate = {"name": "min_top1_agreement", "limit": 0.9, "value": 0.8, "passed": False}
    report = _validation(gates=[gate], verdict="fail")
    top = words(compose(make_bundle({"reports/bench.json": None, "reports/validate.json": report})).html)
    assert "speed was not measured after that" in top


@pytest.mark.usefixtures("undrawn")
def test_a_null_test_that_misses_one_is_called_out(make_bundle: Maker) -> None:
    bench = {**short_benchmark(), "null_test": {"ratio": 1.08, "ci95": [1.04, 1.1]}}
    page = compose(make_bundle({"reports/bench.json": bench})).html
    assert "It does not contain 1" in words(page, "speed")


@pytest.mark.usefixtures("undrawn")
def test_an_unstable_headline_is_marked_where_it_is_first_read(make_bundle: Maker) -> None:
    bench = short_benchmark()
    bench["speedups"][0]["stable"] = False
    page = compose(make_bundle({"reports/bench.json": bench})).html
    assert "! 1.20×" in words(page[: page.index("<main>")])
    assert "unstable pairs" in words(page[: page.index("<main>")])
