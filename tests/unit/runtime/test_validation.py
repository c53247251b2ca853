"""Gates: each says its limit and value, a proof that was not run never passes, one failure decides."""

from dataclasses import replace

import pytest

from foldrank.reports.form import Gate
from foldrank.reports.validate import NOT_RUN, GraphProof, Quality
from foldrank.runtime.proof.validation import gates, share, verdict

GOOD = GraphProof(reference="it", positions=9, argmax_agreement=1.0, max_relative_error=1e-6, kl_nats=0.0,
                  measure="max_relative_error", limit=1e-4, passed=True)
COST = Quality(tokens=9, dense_perplexity=2.0, perplexity=2.08, perplexity_ratio=1.04, kl_nats=0.1, top1_agreement=0.9,
               greedy_prefix_tokens=3.0)


@pytest.mark.parametrize(("text", "number"), [("5%", 0.05), ("0.05", 0.05), (0.05, 0.05), ("0", 0.0), (None, None)])
def test_shares_are_read(text: str | float | None, number: float | None) -> None:
    assert share(text) == number


@pytest.mark.parametrize("text", ["-1%", "nan", "inf", "five", ""])
def test_other_shares_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        share(text)


@pytest.mark.parametrize(("increase", "agreement", "wanted"), [
    (0.05, 0.89, "pass"), (0.03, 0.89, "fail"), (0.05, 0.91, "fail"), (None, None, "pass"), (0.0401, 0.9, "pass"),
    (0.0396, None, "fail"),
])
def test_one_failed_gate_is_a_failure(increase: float | None, agreement: float | None, wanted: str) -> None:
    found = gates(GOOD, COST, max_perplexity_increase=increase, min_top1_agreement=agreement)
    assert verdict(found) == wanted
    assert found[0].name == "graph_proof"


def test_quality_never_excuses_a_failed_proof() -> None:
    found = gates(replace(GOOD, passed=False), COST, max_perplexity_increase=1.0, min_top1_agreement=0.0)
    assert verdict(found) == "fail"


def test_a_proof_that_was_not_run_neither_passes_nor_fails() -> None:
    found = gates(NOT_RUN, COST, max_perplexity_increase=None, min_top1_agreement=None)
    assert found == [Gate(name="graph_proof", limit=None, value=None, passed=None)]
    assert NOT_RUN.positions == 0


def test_half_precision_is_gated_on_kl() -> None:
    half = replace(GOOD, measure="kl_nats", kl_nats=3e-5, max_relative_error=0.01)
    assert gates(half, COST, max_perplexity_increase=None, min_top1_agreement=None)[0].value == 3e-5
