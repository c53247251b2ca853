"""Roofline and speed against context: which rows are drawn, where the roof is, and what is left out without a crash."""

import re
from typing import Any

import pytest

from foldrank.reporting.context_chart import against_context, lines
from foldrank.reporting.roofline import points, roofline
from foldrank.reports.bench import Bench, NullTest, Row
from foldrank.reports.machine import Environment


def row(bundle: str, context: int, batch: int = 1, speed: float = 100.0, size: int = 20_000_000, **more: Any) -> Row:
    told = {"engine": "genai", "stable": True, **more}
    return Row(bundle=bundle, provider="cpu", prompt_tokens=context, context_tokens=context, batch=batch, ttft_ms=1.0,
               tpot_ms=1.0, decode_tokens_per_s=speed, bytes_per_token=size, bandwidth_use=None, peak_rss_bytes=None,
               placement=None, **told)


def bench(*rows: Row, bandwidth: float | None = 1e10) -> Bench:
    machine = Environment(threads=1, versions={}, bandwidth_bytes_per_s=bandwidth)
    return Bench(environment=machine, null_test=NullTest(ratio=1.0, ci95=[1.0, 1.0]), rows=list(rows), speedups=[],
                 gates=[], verdict="pass")


def test_the_roof_is_bandwidth_over_bytes_of_rows_at_batch_1() -> None:
    dense, small = points(bench(row("dense", 16, speed=250.0), row("dense", 16, batch=4),
                                row("compressed", 16, speed=600.0, size=10_000_000, stable=False)))
    assert (dense.bundle, dense.roof, dense.share, dense.stable) == ("dense", 500.0, 0.5, True)
    assert (small.bundle, small.roof, small.share, small.stable) == ("compressed", 1000.0, 0.6, False)


def test_the_roofline_tells_each_row_its_share_of_the_roof() -> None:
    picture = roofline(bench(row("dense", 16, speed=250.0), row("compressed", 16, speed=600.0, size=10_000_000)))[0]
    assert "dense, genai, context 16: 250 at 20.0 MB, 50 % of the roof." in picture.svg
    assert "this bundle, genai, context 16: 600 at 10.0 MB, 60 % of the roof." in picture.svg
    assert {"50 %", "60 %"} <= set(re.findall(r">(\d+ %)<", picture.svg))
    assert "10.0 GB/s" in picture.caption
    assert "cache" not in picture.caption
    assert "Hollow" not in picture.caption


def test_what_is_odd_about_a_point_is_said() -> None:
    picture = roofline(bench(row("dense", 16, speed=501.0, stable=False)))[0]
    assert "A point above it read weights from the processor's cache." in picture.caption
    assert "Hollow points" in picture.caption


@pytest.mark.parametrize("document", [
    bench(), bench(row("dense", 16), bandwidth=None), bench(row("dense", 16), bandwidth=0.0),
    bench(row("dense", 16, batch=4)), bench(row("dense", 16, size=0)), bench(row("other", 16)),
])
def test_without_bandwidth_or_rows_there_is_no_roofline(document: Bench) -> None:
    assert roofline(document) == []


def test_each_bundle_and_batch_is_a_line_with_contexts_rising() -> None:
    rows = [row(bundle, context, batch, speed=1000 / batch - context)
            for bundle in ("dense", "compressed") for batch in (1, 4) for context in (128, 16)]
    found = lines(rows)
    assert found == {"genai": {(bundle, batch): {16: 1000 / batch - 16, 128: 1000 / batch - 128}
                               for bundle in ("dense", "compressed") for batch in (1, 4)}}
    assert [list(line) for line in found["genai"].values()] == [[16, 128]] * 4


def test_engines_have_a_panel_each() -> None:
    picture = against_context([row(bundle, context, speed=speed, engine=engine) for engine in ("genai", "onnxruntime")
                               for bundle, speed in (("dense", 424), ("compressed", 556)) for context in (16, 512)])[0]
    assert "genai, dense, batch 1: 424 at 16, 424 at 512." in picture.svg
    assert "onnxruntime, this bundle, batch 1: 556 at 16, 556 at 512." in picture.svg
    drawn = re.sub(r'aria-label="[^"]*"', "", picture.svg)
    for title in ("genai", "onnxruntime", "dense, batch 1", "this bundle, batch 1"):
        assert drawn.count(f">{title}<") == 1


@pytest.mark.parametrize("rows", [
    [], [row("dense", 16), row("compressed", 16)], [row("dense", 16), row("dense", 128, batch=4)],
])
def test_one_context_is_no_line(rows: list[Row]) -> None:
    assert against_context(rows) == []
