"""The page over files that are absent, of another form, damaged or hostile: it says so, and shows the rest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_words import tags, words
from sample_reports import short_benchmark

from foldrank import strictjson
from foldrank.errors import BundleError
from foldrank.reporting.page import compose

Maker = Callable[..., Path]
HOSTILE = "<script>alert(1)</script>\"'&${x} $\\frac{a}$ {{ 7*7 }} </style>"


def test_hostile_names_are_text(make_bundle: Maker) -> None:
    bench = short_benchmark()
    for row in [*bench["rows"], *bench["speedups"]]:
        row["engine"] = HOSTILE
    bench["environment"] |= {"cpu_model": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    texts = dict.fromkeys(("pass", "effect", "where", "reason"), HOSTILE)
    receipts = [{**texts, "bytes_before": 1, "bytes_after": 2}]
    change = {"reports/bench.json": bench, "reports/receipts.json": receipts}
    page = compose(make_bundle(change, name=HOSTILE)).html
    assert "<script" not in page
    assert page.count("</style>") == 1
    assert "{{ 7*7 }}" in words(page)
    tags(page)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("left_out", "section", "says"),
    [
        ("reports/bench.json", "speed", "not measured: run foldrank bench DIR --baseline DENSE"),
        ("reports/validate.json", "quality", "not measured: run foldrank validate DIR --reference DENSE"),
        ("reports/validate.json", "proof", "not measured: run foldrank validate DIR --reference DENSE --model MODEL"),
        ("reports/receipts.json", "receipts", "not measured: run foldrank apply"),
        ("plan/diagnostics.json", "similarity", "not measured: run foldrank plan"),
        ("plan/diagnostics.json", "spectra", "not measured: run foldrank plan"),
        ("config.json", "bytes", "Not known"),
    ],
)
def test_what_is_missing_is_said(make_bundle: Maker, left_out: str, section: str, says: str) -> None:
    assert says in words(compose(make_bundle({left_out: None})).html, section)


@pytest.mark.usefixtures("undrawn")
def test_without_any_report_no_figure_is_made_up(make_bundle: Maker) -> None:
    page = compose(make_bundle({"reports/bench.json": None, "reports/validate.json": None})).html
    top = words(page[: page.index("<main>")])
    assert "! Not validated" in top
    assert top.count("not measured") == 3
    assert "Passed" not in page


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "content", [{}, [], None, 3, "text", {"quality": [], "graph": 3, "gates": {}, "rows": [1], "speedups": [[]]}]
)
@pytest.mark.parametrize(
    "path",
    [
        "reports/validate.json",
        "reports/bench.json",
        "reports/receipts.json",
        "plan/diagnostics.json",
        "config.json",
        "genai_config.json",
    ],
)
def test_a_file_of_another_form_never_crashes_the_page(make_bundle: Maker, path: str, content: Any) -> None:
    tags(compose(make_bundle({path: strictjson.dumps(content)})).html)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("path", "sections", "command"), [
    ("reports/validate.json", ("quality", "proof"), "foldrank validate"),
    ("reports/bench.json", ("speed",), "foldrank bench"), ("reports/receipts.json", ("receipts",), "foldrank apply"),
])
def test_a_report_that_does_not_fit_is_named_with_the_reason_and_the_rest_is_shown(
    make_bundle: Maker, path: str, sections: tuple[str, ...], command: str
) -> None:
    page = compose(make_bundle({path: {"schema": "foldrank.of_tomorrow/9"}})).html
    for section in sections:
        said = words(page, section)
        assert f"Cannot be read: {path}: " in said
        assert "schema is 'foldrank.of_tomorrow/9', this version reads 'foldrank." in said
        assert f"run `{command}` again" in said
    assert "12 blocks became 9." in words(page, "done")


@pytest.mark.usefixtures("undrawn")
def test_receipts_of_before_their_schema_and_with_it_give_the_same_page(make_bundle: Maker) -> None:
    rows = strictjson.read(make_bundle() / "reports" / "receipts.json")
    before = words(compose(make_bundle()).html, "receipts")
    report = {"schema": "foldrank.receipts/1", "receipts": rows}
    assert words(compose(make_bundle({"reports/receipts.json": report})).html, "receipts") == before
    assert "drop blocks (exact)" in before


def test_a_damaged_file_is_named(make_bundle: Maker) -> None:
    with pytest.raises(BundleError, match=r"bench\.json"):
        compose(make_bundle({"reports/bench.json": "{"}))
