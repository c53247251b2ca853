"""How numbers read."""

import pytest

from foldrank.reporting import figures


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (22_170_368, "22.2 MB"),
        (999_600, "1.00 MB"),
        (5.5e9, "5.50 GB"),
        (1.2e12, "1,200 GB"),
        (None, "not measured"),
    ],
)
def test_sizes_are_decimal_and_carry_their_unit(count: float | None, shown: str) -> None:
    assert figures.size(count) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.01234, "0.0123"),
        (4.5678, "4.57"),
        (1234.4, "1,234"),
        (9.999, "10.0"),
        (99.96, "100"),
        (0, "0"),
        (-4.5678, "-4.57"),
    ],
)
def test_three_significant_figures(value: float, shown: str) -> None:
    assert figures.significant(value) == shown


def test_no_rounding_hides_more_than_half_a_per_cent() -> None:
    for step in range(1, 4000):
        value = 1.0173**step * 1e-12
        if value > 1e9:
            break
        assert float(figures.significant(value).replace(",", "")) == pytest.approx(value, rel=0.005001)


def test_small_errors_and_changes() -> None:
    assert figures.error(3.24e-6) == "3.2·10⁻⁶"
    assert figures.error(0.0) == "0"
    assert figures.change(1.0342) == "+3.4 %"
    assert figures.change(0.98) == "-2.0 %"
    assert figures.nats(0.03456) == "0.0346 nats"
    assert figures.nats(3e-9) == "3.0·10⁻⁹ nats"
    assert figures.interval([1.2, 1.284]) == "1.20 to 1.28"


@pytest.mark.parametrize(
    "form",
    [
        figures.size,
        figures.significant,
        figures.whole,
        figures.percent,
        figures.change,
        figures.times,
        figures.milliseconds,
        figures.error,
        figures.nats,
    ],
)
def test_nothing_is_not_zero(form: object) -> None:
    assert callable(form)
    assert form(None) == "not measured"
