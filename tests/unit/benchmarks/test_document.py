"""What the report says of known samples, and when it warns."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from foldrank.benchmarks import document
from foldrank.benchmarks.bench import check_comparable, speed_gates, turns
from foldrank.benchmarks.document import Yardstick
from foldrank.benchmarks.ideal import Work
from foldrank.benchmarks.paired import NULL, SPEED, Series, Setup
from foldrank.benchmarks.schedule import FEW, ONE, WHOLE, Turns
from foldrank.benchmarks.statistics import Estimate
from foldrank.benchmarks.workload import Workload
from foldrank.bundle.bundle import Bundle
from foldrank.errors import BundleError
from foldrank.reports.bench import NullTest, Phase, Speedup
from foldrank.runtime.providers.provider import Provider
from foldrank.verbs.bench import bench

SETUP = Setup(Provider("cpu"), threads=2, vocabulary=100, seed=0)
WORKLOAD = Workload(prompt=100, batch=2, tokens=20)
DENSE = Work(weight_bytes=2_000_000, row_bytes=1_000, linear_flops=1_000_000, cache_bytes=100, attention_flops=50)
SMALL = dataclasses.replace(DENSE, weight_bytes=1_000_000, linear_flops=500_000)
YARDSTICK = Yardstick({"dense": DENSE, "compressed": SMALL}, bandwidth=1e9, cache_bytes=None)


def _sample(seconds: float) -> dict[str, float]:
    return {"prepare_s": 0.5, "ttft_s": 10 * seconds, "tpot_s": seconds}


def _series(dense: float = 0.006, small: float = 0.004, again: float = 0.006) -> Series:
    pairs = [(_sample(dense), _sample(small))] * 10
    nulls = [(_sample(dense), _sample(again))] * 10
    opened = {"placement": {"CPUExecutionProvider": 7}, "rss_before_bytes": 5, "pinned": True}
    return Series(
        "onnxruntime", {(SPEED, WORKLOAD): [pairs, pairs], (NULL, WORKLOAD): [nulls, nulls]},
        {"dense": opened, "compressed": opened, "dense again": opened},
        {"dense": [100, 120], "compressed": [60, 50], "dense again": [100, 100]},
    )


def test_rows_hold_medians_samples_and_bandwidth_use() -> None:
    dense, small = document.rows(_series(), SETUP, YARDSTICK)
    assert (dense.bundle, small.bundle) == ("dense", "compressed")
    assert dense.tpot_ms == pytest.approx(6.0)
    assert dense.ttft_ms == pytest.approx(60.0)
    assert small.decode_tokens_per_s == pytest.approx(2 / 0.004)
    step_bytes = 1_000_000 + 2 * (1_000 + 110 * 100)
    assert small.bytes_per_token == step_bytes / 2
    assert small.bandwidth_use == pytest.approx(step_bytes / 0.004 / 1e9)
    assert (dense.peak_rss_bytes, small.peak_rss_bytes) == (120, 60)
    assert len(small.samples.tpot_ms) == 20
    assert small.stable


def test_speedups_stand_beside_their_ideal() -> None:
    prefill, decode = document.speedups(_series(), SETUP, YARDSTICK)
    assert decode.ratio == pytest.approx(1.5)
    assert decode.ideal == pytest.approx((2_000_000 + 24_000) / (1_000_000 + 24_000))
    assert decode.realised_over_ideal == pytest.approx(1.5 / decode.ideal)
    looks = 100 * 101 / 2 * 50
    assert prefill.ideal == pytest.approx((1e8 + looks) / (5e7 + looks))
    assert decode.note is None


def test_a_row_with_scattered_samples_is_unstable() -> None:
    series = _series()
    series.pairs[SPEED, WORKLOAD] = [[(_sample(0.006 * (1 + 0.1 * (k % 3))), _sample(0.004)) for k in range(10)]] * 2
    dense, small = document.rows(series, SETUP, YARDSTICK)
    assert not dense.stable
    assert small.stable
    assert not any(entry.stable for entry in document.speedups(series, SETUP, YARDSTICK))


def test_a_machine_that_drifts_under_both_leaves_their_ratio_stable() -> None:
    series = _series()
    drift = [1 + 0.1 * k for k in range(10)]
    series.pairs[SPEED, WORKLOAD] = [[(_sample(0.006 * d), _sample(0.004 * d)) for d in drift]] * 2
    assert not any(row.stable for row in document.rows(series, SETUP, YARDSTICK))
    assert all(entry.stable and entry.spread < 1e-9 for entry in document.speedups(series, SETUP, YARDSTICK))


def test_where_turns_were_tokens_a_pairs_ratio_is_the_median_over_them() -> None:
    ours, theirs = ({**_sample(1.0), "steps_s": steps} for steps in ([2.0, 9.0, 3.0], [1.0, 1.0, 2.0]))
    assert document.pair_ratio(ours, theirs, "decode") == 2.0
    assert document.pair_ratio(ours, theirs, "prefill") == 1.0
    assert document.pair_ratio(_sample(3.0), _sample(2.0), "decode") == 1.5


@pytest.mark.parametrize(("provider", "cache", "expected"), [
    (Provider("cpu"), 400_000, ONE), (Provider("cpu"), 600_000, FEW), (Provider("cpu"), None, FEW),
    (Provider("cuda"), 400_000, WHOLE),
])
def test_a_turn_is_one_token_where_no_weights_stay_in_the_cache(
    provider: Provider, cache: int | None, expected: Turns
) -> None:
    assert turns(provider, [DENSE, SMALL], cache) == expected


def test_the_null_test_passes_on_equal_and_fails_on_unequal_workers() -> None:
    assert document.null_test([_series()], SETUP).passed
    odd = document.null_test([_series(again=0.0063)], SETUP)
    assert not odd.passed
    assert odd.missed == 2
    assert odd.ratio == pytest.approx(6 / 6.3)


@pytest.mark.parametrize(
    ("found", "phase", "cache", "says"),
    [
        (Estimate(1.4, 1.3, 1.5), "decode", None, None),
        (Estimate(2.1, 1.9, 2.3), "decode", None, "noise"),
        (Estimate(2.5, 2.4, 2.6), "decode", None, "unexplained"),
        (Estimate(2.5, 2.4, 2.6), "decode", 1_000_000, "the dense do not"),
        (Estimate(2.5, 2.4, 2.6), "decode", 32 << 20, "with nodes rather than with bytes"),
        (Estimate(2.5, 2.4, 2.6), "prefill", None, "fixed costs"),
    ],
)
def test_a_ratio_above_ideal_is_explained_not_applauded(
    found: Estimate, phase: str, cache: int | None, says: str | None
) -> None:
    note = document.note(found, 2.0, phase, WORKLOAD, dataclasses.replace(YARDSTICK, cache_bytes=cache))
    assert note is None if says is None else note is not None and says in note


def _speedup(engine: str, low: float, *, batch: int = 1, phase: Phase = "decode") -> Speedup:
    return Speedup(engine=engine, phase=phase, batch=batch, prompt_tokens=16, ratio=low + 0.1, ci95=[low, low + 0.2],
                   ideal=2.0, realised_over_ideal=(low + 0.1) / 2)


def test_the_gate_asks_the_lower_end_of_every_engine_at_batch_one() -> None:
    entries = [_speedup("genai", 9.0, phase="prefill"), _speedup("genai", 1.25), _speedup("genai", 0.5, batch=4),
               _speedup("onnxruntime", 1.15)]
    null = NullTest(ratio=1.0, ci95=[0.99, 1.01], passed=True)
    assert [(g.name, g.value, g.passed) for g in speed_gates(entries, null, 1.2)] == [
        ("min_speedup genai", 1.25, True), ("min_speedup onnxruntime", 1.15, False), ("null_test", 0.0, True),
    ]
    assert speed_gates(entries, null, None) == []


def test_the_gate_fails_on_a_machine_that_tells_equal_bundles_apart() -> None:
    gates = speed_gates([_speedup("genai", 1.5)], NullTest(ratio=1.03, ci95=[1.02, 1.05], passed=False), 1.2)
    assert [gate.passed for gate in gates] == [True, False]
    assert gates[1].value == pytest.approx(0.02)


@pytest.mark.parametrize("change", [{"dtype": "fp16"}, {"config_sha256": "0"}, {"weights_sha256": "0"}])
def test_bundles_of_another_dtype_or_checkpoint_are_not_compared(dense_5m: Any, change: dict[str, Any]) -> None:
    dense = Bundle.open(dense_5m)
    check_comparable(dense, dense)
    changed = change if "dtype" in change else {"source": {**dense.manifest.source, **change}}
    other = Bundle(dense.path, dataclasses.replace(dense.manifest, **changed))
    with pytest.raises(BundleError, match="baseline"):
        check_comparable(other, dense)


@pytest.mark.parametrize("wrong", [{"engines": ()}, {"engines": ("vllm",)}, {"pairs": 5}])
def test_bench_refuses_wrong_settings_before_it_starts(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"engines|prove nothing"):
        bench("nowhere", baseline="nowhere", **wrong)
