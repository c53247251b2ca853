"""From samples to what reports/bench.json holds: rows, speedups beside their ideal, the null test, memory.

Pure: takes no measurement. Ratios are dense over compressed, so more than 1 is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from foldrank.benchmarks.ideal import Work
from foldrank.benchmarks.paired import NULL, SPEED, Pairs, Sample, Series, Setup
from foldrank.benchmarks.statistics import Estimate, estimate, spread, unstable_because
from foldrank.benchmarks.workload import Workload
from foldrank.reports.bench import Energy, Memory, NullRow, NullTest, Phase, Row, Samples, Speedup, Spread, headline

PHASES: dict[Phase, str] = {"prefill": "ttft_s", "decode": "tpot_s"}
"""Phase to the time it is judged by: to the first token, and per token after it."""

EACH: dict[Phase, str] = {"prefill": "ttfts_s", "decode": "steps_s"}
"""Phase to the times that one sample's is the middle of, where it holds them."""


@dataclass(frozen=True)
class Yardstick:
    """What rows are held against: work per bundle, bytes per second of this machine, its last cache in bytes."""

    work: Mapping[str, Work]
    bandwidth: float | None
    cache_bytes: int | None

    def ideal(self, phase: str, workload: Workload) -> float:
        """Speed-up if time went as bytes (decode) or FLOPs (prefill)."""
        dense, compressed = self.work["dense"], self.work["compressed"]
        if phase == "decode":
            return dense.decode_bytes(workload) / compressed.decode_bytes(workload)
        return dense.prefill_flops(workload) / compressed.prefill_flops(workload)


def rows(series: Series, setup: Setup, yardstick: Yardstick) -> list[Row]:
    """One row per bundle and workload: medians, raw samples, bytes, bandwidth use."""
    return [
        _row(series, bundle, workload, [pair[side] for pairs in launches for pair in pairs], setup, yardstick)
        for (contest, workload), launches in series.pairs.items() if contest == SPEED
        for side, bundle in enumerate(("dense", "compressed"))
    ]


def _row(
    series: Series, bundle: str, workload: Workload, samples: Sequence[Mapping[str, float]], setup: Setup,
    yardstick: Yardstick,
) -> Row:
    ttft, tpot = ([1e3 * sample[key] for sample in samples] for key in PHASES.values())
    tokens_per_s = workload.batch * 1e3 / float(np.median(tpot))
    bytes_per_token = yardstick.work[bundle].decode_bytes(workload) / workload.batch
    peaks = [peak for peak in series.peaks[bundle] if peak is not None]
    why = unstable_because(ttft) or unstable_because(tpot)
    return Row(
        bundle=bundle, engine=series.engine, provider=setup.provider.short,
        prompt_tokens=workload.prompt, context_tokens=workload.prompt, batch=workload.batch,
        decode_tokens=workload.tokens,
        prepare_ms=1e3 * float(np.median([sample["prepare_s"] for sample in samples])),
        ttft_ms=float(np.median(ttft)), tpot_ms=float(np.median(tpot)),
        decode_tokens_per_s=tokens_per_s, bytes_per_token=round(bytes_per_token),
        prefill_flops=round(yardstick.work[bundle].prefill_flops(workload)),
        bandwidth_use=yardstick.bandwidth and bytes_per_token * tokens_per_s / yardstick.bandwidth,
        peak_rss_bytes=max(peaks, default=None), placement=series.opened[bundle]["placement"],
        cuda_graph=series.opened[bundle].get("cuda_graph"),
        spread=Spread(ttft=spread(ttft), tpot=spread(tpot)), stable=why is None, unstable_because=why,
        samples=Samples(ttft_ms=ttft, tpot_ms=tpot),
    )


def speedups(series: Series, setup: Setup, yardstick: Yardstick) -> list[Speedup]:
    """One entry per phase and workload: median of pair ratios, interval, ideal; a note where the ideal is beaten.

    Its samples are the pair ratios: a machine that grows slower under both leaves a row unstable and its ratio stable.
    """
    entries = []
    for (contest, workload), launches in series.pairs.items():
        if contest != SPEED:
            continue
        for phase in PHASES:
            ratios = _ratios(launches, phase)
            found, ideal = estimate(ratios, setup.seed), yardstick.ideal(phase, workload)
            samples = [ratio for launch in ratios for ratio in launch]
            why = unstable_because(samples, found)
            entries.append(Speedup(
                **_what(series, phase, workload), ratio=found.ratio, ci95=found.ci95, ideal=ideal,
                realised_over_ideal=found.ratio / ideal, spread=spread(samples), stable=why is None,
                unstable_because=why, pair_ratios=ratios, note=note(found, ideal, phase, workload, yardstick),
            ))
    return entries


def null_test(all_series: Sequence[Series], setup: Setup) -> NullTest:
    """Dense against dense, per engine, phase and workload. On top: the `headline` one."""
    entries = []
    for series in all_series:
        for (contest, workload), launches in series.pairs.items():
            if contest != NULL:
                continue
            for phase in PHASES:
                ratios = _ratios(launches, phase)
                found = estimate(ratios, setup.seed)
                entries.append(NullRow(
                    **_what(series, phase, workload), ratio=found.ratio, ci95=found.ci95,
                    contains_one=found.contains(1.0), pair_ratios=ratios,
                ))
    first = headline(entries)
    return NullTest(
        ratio=first.ratio, ci95=first.ci95, passed=first.contains_one,
        missed=sum(not entry.contains_one for entry in entries), rows=entries,
    )


def memory(series: Series) -> list[Memory]:
    """Peak resident bytes of each session's process, one per launch, and what the process held before it opened."""
    return [
        Memory(bundle=name, engine=series.engine, peak_rss_bytes=series.peaks[name],
               rss_before_bytes=series.opened[name]["rss_before_bytes"],
               huge_page_bytes=series.opened[name].get("huge_page_bytes"), gpu_bytes=series.on_card.get(name))
        for name in ("dense", "compressed")
    ]


def energy(series: Series) -> list[Energy]:
    """Joules per token of each bundle at the first workload, and what read them."""
    return [Energy(bundle=name, engine=series.engine, **found) for name, found in series.energy.items()]


def note(found: Estimate, ideal: float, phase: Phase, workload: Workload, yardstick: Yardstick) -> str | None:
    """Why a ratio is above its ideal, as far as the data tell; None where it is not."""
    if found.ratio <= ideal:
        return None
    if found.low <= ideal:
        return "above ideal by less than the interval: noise"
    dense, small = (yardstick.work[name].decode_bytes(workload) for name in ("dense", "compressed"))
    cache = yardstick.cache_bytes or 0
    if phase == "decode" and dense <= cache:
        return "above ideal: both fit in the last-level cache, so time goes with nodes rather than with bytes"
    if phase == "decode" and small <= 1.5 * cache:
        return "above ideal: the compressed weights fit, wholly or largely, in the last-level cache, the dense do not"
    if phase == "prefill":
        return "above ideal: so short a prompt is bound by bytes, launches or fixed costs rather than by FLOPs"
    return "above ideal and unexplained: distrust this row"


def _ratios(launches: Sequence[Pairs], phase: Phase) -> list[list[float]]:
    return [[pair_ratio(dense, rival, phase) for dense, rival in pairs] for pairs in launches]


def pair_ratio(dense: Sample, rival: Sample, phase: Phase) -> float:
    """Dense over rival: of the phase's times, or where turns were tokens the median over readings or tokens."""
    each = EACH[phase]
    if each in dense:
        return median(ours / theirs for ours, theirs in zip(dense[each], rival[each], strict=True))
    return dense[PHASES[phase]] / rival[PHASES[phase]]


def _what(series: Series, phase: Phase, workload: Workload) -> dict[str, Any]:
    return {
        "phase": phase, "engine": series.engine, "batch": workload.batch, "prompt_tokens": workload.prompt,
        "context_tokens": workload.prompt,
    }
