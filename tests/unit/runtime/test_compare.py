"""The numbers behind both proofs: right by another road, and never blind to an error of 1 %."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldrank.errors import ValidationFailed
from foldrank.runtime.proof.compare import Comparison, check_finite, kl_divergence, kl_of_logits, log_softmax, pieces

LOGITS = np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32) * 5


def slow_log_softmax(row: list[float]) -> list[float]:
    total = math.fsum(math.exp(x) for x in row)
    return [x - math.log(total) for x in row]


def compared(wanted: np.ndarray, found: np.ndarray) -> Comparison:
    comparison = Comparison("the graph")
    comparison.add(wanted, found)
    return comparison


@pytest.mark.parametrize(("positions", "beyond"), [(1, 0), (64, 0), (100, 0), (101, 1), (1_000, 9), (10_240, 102)])
def test_the_usual_error_leaves_out_the_worst_hundredth(positions: int, beyond: int) -> None:
    errors = np.random.default_rng(positions).normal(size=(positions, 3))
    wanted = np.array([[1.0, -2.0, 0.5]]).repeat(positions, 0)
    comparison = compared(wanted, wanted + errors)
    by_hand = sorted(max(abs(error) for error in row) for row in errors.tolist())[positions - 1 - beyond] / 2
    assert comparison.usual_error == pytest.approx(by_hand)


def test_the_tokens_of_the_largest_error_are_kept() -> None:
    comparison, tokens = Comparison("the graph"), [np.full((1, 7), number) for number in range(3)]
    for ids, error in zip(tokens, (1e-3, 3e-3, 2e-3), strict=True):
        comparison.add(LOGITS, LOGITS + np.float32(error), ids)
    assert comparison.worst is tokens[1]


def test_log_softmax_is_the_definition() -> None:
    wanted = [slow_log_softmax(row) for row in LOGITS.astype(float).tolist()]
    np.testing.assert_allclose(log_softmax(LOGITS), wanted, rtol=1e-12)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(log_softmax(LOGITS) * 1.01, wanted, rtol=1e-12)


def test_log_softmax_survives_huge_logits() -> None:
    found = log_softmax(np.array([[30_000.0, 0.0, -30_000.0]], np.float32))
    assert found.tolist() == [[0.0, -30_000.0, -60_000.0]]


def test_kl_of_two_coins_is_the_closed_form() -> None:
    p, q = 0.3, 0.6
    wanted = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    found = kl_divergence(np.log([[p, 1 - p]]), np.log([[q, 1 - q]]))[0]
    assert found == pytest.approx(wanted, rel=1e-12)
    assert found != pytest.approx(wanted * 1.01, rel=1e-12)


@pytest.mark.parametrize("apart", [1e-5, 1e-3, 9e-3, 2e-2, 3.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kl_of_logits_is_the_definition_near_and_far(apart: float, dtype: type) -> None:
    wanted = LOGITS.astype(dtype)
    found = wanted + np.random.default_rng(2).normal(size=LOGITS.shape).astype(dtype) * dtype(apart)
    pairs = [[slow_log_softmax(row) for row in logits.astype(float).tolist()] for logits in (wanted, found)]
    slow = [math.fsum(math.exp(p) * (p - q) for p, q in zip(*rows, strict=True)) for rows in zip(*pairs, strict=True)]
    np.testing.assert_allclose(kl_of_logits(wanted, found), slow, rtol=1e-5, atol=5e-15)


@given(st.integers(1, 50), st.integers(2, 9))
def test_pieces_hold_every_row_once(rows: int, vocabulary: int) -> None:
    logits = np.arange(rows * vocabulary).reshape(rows, vocabulary)
    assert np.array_equal(np.concatenate([p for (p,) in pieces(logits)]), logits)


def test_equal_logits_differ_in_nothing() -> None:
    found = compared(LOGITS, LOGITS)
    assert (found.relative_error, found.kl_nats, found.argmax_agreement(0.0)) == (0.0, 0.0, 1.0)
    assert found.positions == 7


def test_an_error_of_one_percent_is_one_percent_wherever_it_stands() -> None:
    largest = np.abs(LOGITS).max()
    for at in np.ndindex(LOGITS.shape):
        wrong = LOGITS.copy()
        wrong[at] += 0.01 * largest
        assert compared(LOGITS, wrong).relative_error == pytest.approx(0.01, rel=1e-4)


def test_adding_window_by_window_is_adding_all_at_once() -> None:
    wrong = LOGITS + np.random.default_rng(1).normal(size=LOGITS.shape).astype(np.float32)
    whole, parts = compared(LOGITS, wrong), Comparison("the graph")
    for row in range(len(LOGITS)):
        parts.add(LOGITS[row], wrong[row])
    assert parts.relative_error == whole.relative_error
    assert parts.kl_nats == pytest.approx(whole.kl_nats, rel=1e-12)
    assert parts.argmax_agreement(0.01) == whole.argmax_agreement(0.01)


def test_a_tie_is_a_choice_within_the_tolerance_of_the_largest_logit() -> None:
    wanted = np.array([[10.0, 9.995, -20.0]])
    found = np.array([[9.994, 9.995, -20.0]])
    comparison = compared(wanted, found)  # 0.005 apart, the largest logit is 20
    assert comparison.argmax_agreement(0.005 / 20 * 1.01) == 1.0
    assert comparison.argmax_agreement(0.005 / 20 * 0.99) == 0.0


def test_kl_sees_what_one_percent_of_temperature_does() -> None:
    assert compared(LOGITS, LOGITS * 1.01).kl_nats > 1e-5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_compared(bad: float) -> None:
    wrong = LOGITS.copy()
    wrong[3, 4] = bad
    with pytest.raises(ValidationFailed, match="1 of 7 positions"):
        check_finite("the graph", wrong)
    for wanted, found in ((wrong, LOGITS), (LOGITS, wrong), (wrong, wrong)):
        with pytest.raises(ValidationFailed):
            compared(wanted, found)


def test_logits_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(ValidationFailed, match="logits"):
        compared(LOGITS, LOGITS[:, :-1])
