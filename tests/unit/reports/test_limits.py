"""Limits of a release: each gate holds at its limit and fails beyond it; what was not measured does not pass."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_reports import benchmark, validation
from synthetic.bundles import write_bundle
from synthetic.decoders import Shape, random_decoder

from foldrank.bundle.bundle import Bundle
from foldrank.errors import BundleError
from foldrank.reports.bench import FORM as BENCH
from foldrank.reports.limits import QualityLimits, SpeedLimits, p95, stored_bytes
from foldrank.reports.validate import FORM as VALIDATE

QUALITY, SPEED = VALIDATE.parse(validation()), BENCH.parse(benchmark())


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(random_decoder(Shape()), tmp_path / "bundle")


def released(bundle: Bundle, **parts: Any) -> Bundle:
    """The bundle with the reports of a release, in which these parts differ."""
    quality = replace(QUALITY, quality=replace(QUALITY.quality, **parts))
    return bundle.with_files({VALIDATE.file: VALIDATE.data(quality), BENCH.file: BENCH.data(SPEED)})


def test_graph_and_weights_are_what_bytes_means(bundle: Bundle) -> None:
    assert stored_bytes(bundle) == sum(path.stat().st_size for path in bundle.path.glob("model.onnx*"))


@pytest.mark.parametrize(("limits", "value"), [
    ({"max_kl": 0.1377}, 0.1377), ({"max_kl": 0.1376}, 0.1377),
])
def test_kl_holds_at_its_limit_and_not_beyond(limits: dict[str, float], value: float, bundle: Bundle) -> None:
    [gate] = QualityLimits(**limits).gates(QUALITY, bundle)
    assert (gate.value, gate.passed) == (value, value <= limits["max_kl"])


def test_bytes_hold_at_their_limit_and_not_beyond(bundle: Bundle) -> None:
    size = stored_bytes(bundle)
    found = [QualityLimits(max_bytes=limit).gates(QUALITY, bundle)[0].passed for limit in (size, size - 1)]
    assert found == [True, False]


def test_what_was_not_measured_fails(bundle: Bundle) -> None:
    [gate] = QualityLimits(max_task_drop=0.5).gates(QUALITY, bundle)
    assert (gate.value, gate.passed) == (None, False)
    bare = replace(SPEED, rows=[replace(row, samples=None, peak_rss_bytes=None) for row in SPEED.rows])
    asked = SpeedLimits(max_memory_bytes=10**12, max_p95_first_ms=10**6, max_p95_token_ms=10**6)
    assert [gate.passed for gate in asked.gates(bare)] == [False] * 3
    assert [gate.passed for gate in asked.gates(SPEED)] == [True] * 3


def test_p95_is_a_time_that_was_measured() -> None:
    assert [p95(range(1, n + 1)) for n in (1, 19, 20, 100)] == [1, 19, 19, 95]


def test_times_are_the_compressed_bundles_slowest() -> None:
    rows = [replace(row, samples=replace(row.samples, tpot_ms=[1.0] * 90 + [9.0] * 10))
            if row.bundle == "compressed" and row.prompt_tokens == 512 and row.engine == "genai"
            else row if row.bundle == "compressed" else replace(row, samples=replace(row.samples, tpot_ms=[99.0]))
            for row in SPEED.rows]  # type: ignore[type-var]
    [gate] = SpeedLimits(max_p95_token_ms=8.9).gates(replace(SPEED, rows=rows))
    assert (gate.value, gate.passed) == (9.0, False)


@pytest.mark.parametrize(("parts", "failed"), [
    ({}, []), ({"perplexity": 47.93 / 1.01}, []), ({"perplexity": 47.93 / 1.03}, ["release_perplexity_increase"]),
    ({"top1_agreement": 0.8123 + 0.03}, ["release_top1_agreement_drop"]),
])
def test_no_worse_than_the_release_before(parts: dict[str, float], failed: list[str], bundle: Bundle) -> None:
    gates = QualityLimits(release=released(bundle, **parts)).gates(QUALITY, bundle)
    assert [gate.name for gate in gates if not gate.passed] == failed
    assert len(gates) == 3


def test_a_release_of_another_text_or_machine_or_without_reports_is_no_measure(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="`foldrank validate` was not run"):
        QualityLimits(release=bundle).gates(QUALITY, bundle)
    with pytest.raises(BundleError, match="`foldrank bench` was not run"):
        SpeedLimits(release=bundle).gates(SPEED)
    made = released(bundle, tokens=5)
    with pytest.raises(BundleError, match="another text"):
        QualityLimits(release=made).gates(QUALITY, bundle)
    with pytest.raises(BundleError, match="not here"):
        SpeedLimits(release=made).gates(replace(SPEED, environment=replace(SPEED.environment, threads=64)))


def test_a_slower_one_than_the_release_fails(bundle: Bundle) -> None:
    made = released(bundle)
    assert [gate.passed for gate in SpeedLimits(release=made).gates(SPEED)] == [True, True]
    slower = [replace(entry, ratio=entry.ratio * 0.8, ci95=[bound * 0.8 for bound in entry.ci95])
              for entry in SPEED.speedups]
    gates = SpeedLimits(release=made).gates(replace(SPEED, speedups=slower))
    assert [gate.name for gate in gates if not gate.passed] == ["release_slowdown"]
