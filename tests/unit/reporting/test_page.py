"""The page says what the JSON says, says what is missing, and loads nothing."""

import copy
import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sample_reports import benchmark, validation

from foldrank import strictjson
from foldrank.errors import BundleError
from foldrank.reporting import picture
from foldrank.reporting.page import compose

Maker = Callable[..., Path]
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Tags(HTMLParser):
    """Every tag with its attributes; fails on tags that do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser.seen


def words(page: str, section: str | None = None) -> str:
    """The text a reader sees, of one section or the whole, on one line."""
    if section is not None:
        page = page[page.index(f'<section id="{section}">') :]
        page = page[: page.index("</section>")]
    page = re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not written out, which is what takes long: for tests that read only words."""
    monkeypatch.setattr(picture, "inline_svg", lambda *_: '<svg role="img"></svg>')


SECTIONS = ["done", "similarity", "spectra", "bytes", "quality", "proof", "speed", "origin", "receipts"]


def test_a_compressed_bundle_has_every_section_and_picture(make_bundle: Maker) -> None:
    page = compose(make_bundle()).html
    assert [a["id"] for tag, a in tags(page) if tag == "section"] == SECTIONS
    pictures = [a for tag, a in tags(page) if tag == "svg"]
    assert len(pictures) == 8
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 40 for a in pictures)


@pytest.mark.usefixtures("undrawn")
def test_a_dense_bundle_has_a_page_without_plan_sections(make_bundle: Maker) -> None:
    page = compose(make_bundle({"reports/bench.json": None, "reports/receipts.json": None}, plan=False)).html
    assert [a["id"] for tag, a in tags(page) if tag == "section"] == [
        s for s in SECTIONS if s not in ("similarity", "spectra")
    ]
    assert "no compression plan was applied" in page
    assert "the graph computes what the checkpoint says" in words(page)


@pytest.mark.usefixtures("undrawn")
def test_figures_are_those_of_the_json(make_bundle: Maker) -> None:
    page = compose(make_bundle()).html
    top = words(page[: page.index("<main>")])
    for figure in ("+13.0 %", "42.4 → 47.9", "81.2 %", "1.31×", "1.27 to 1.36", "ideal 1.55×", "3.4·10⁻⁶", "10,240"):
        assert figure in top, figure
    assert "perplexity 42.4 47.9 +13.0 %" in words(page, "quality")
    assert "0.138 nats" in words(page, "quality")
    assert "max perplexity increase 20.00 % 13.02 % ✓ holds" in words(page, "quality")
    assert "decode, genai, context 128, batch 1 ! 1.29× 1.25 to 1.34 1.54× 84 %" in words(page, "speed")
    assert "1.001, 95 % interval 0.992 to 1.011. It contains 1" in words(page, "speed")
    assert "genai, prompt 16, batch 1 compressed cpu 5.76 ms 1.80 ms 556 14.3 MB 43 % 212 MB not told" in words(
        page, "speed"
    )
    assert "block 2 56 56 56 56" in words(page, "done")
    assert "block 1 52 dense 52 52" in words(page, "done")
    assert "12 blocks became 9." in words(page, "done")


def test_nothing_is_loaded_from_outside(make_bundle: Maker) -> None:
    page = compose(make_bundle()).html
    assert not re.search(r"https?://", page)
    for tag, attributes in tags(page):
        assert tag not in ("script", "link", "iframe", "object", "embed")
        for key in ("src", "href", "xlink:href"):
            if value := attributes.get(key):
                assert value.startswith(("#", "data:image/png;base64,")), (tag, value)
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", page))


def test_ids_are_unique_and_every_reference_has_its_target(make_bundle: Maker) -> None:
    page = compose(make_bundle()).html
    ids = [str(a["id"]) for _, a in tags(page) if "id" in a]
    assert len(ids) == len(set(ids))
    references = re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)
    assert set(references) <= set(ids)


HOSTILE = "<script>alert(1)</script>\"'&${x} $\\frac{a}$ {{ 7*7 }} </style>"


def test_hostile_names_are_text(make_bundle: Maker) -> None:
    bench = copy.deepcopy(BENCH)
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


BENCH: dict[str, Any] = {
    **benchmark(),
    "rows": [row for row in benchmark()["rows"] if row["context_tokens"] == 16],
    "speedups": [{**benchmark()["speedups"][1], "ratio": 1.2, "ci95": [1.1, 1.3], "ideal": 1.4}],
}


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
    bench = {**BENCH, "gates": [{"name": "min_speedup genai", "limit": 1.1, "value": 1.2, "passed": True}]}
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
    bench = {**BENCH, "null_test": {"ratio": 1.08, "ci95": [1.04, 1.1]}}
    page = compose(make_bundle({"reports/bench.json": bench})).html
    assert "It does not contain 1" in words(page, "speed")


def test_the_same_bundle_gives_the_same_page(make_bundle: Maker, drawn_anew: Callable[[], None]) -> None:
    folder = make_bundle()
    first = compose(folder).html
    drawn_anew()
    assert compose(folder).html == first


@pytest.mark.usefixtures("undrawn")
def test_an_unstable_headline_is_marked_where_it_is_first_read(make_bundle: Maker) -> None:
    bench = copy.deepcopy(BENCH)
    bench["speedups"][0]["stable"] = False
    page = compose(make_bundle({"reports/bench.json": bench})).html
    assert "! 1.20×" in words(page[: page.index("<main>")])
    assert "unstable pairs" in words(page[: page.index("<main>")])


@pytest.mark.usefixtures("undrawn")
def test_each_stage_tells_its_versions(make_bundle: Maker) -> None:
    text = words(compose(make_bundle()).html, "origin")
    assert "library planned made timed" in text
    assert "foldrank 0.1.0 0.1.0" in text
    assert "bandwidth 21.0 GB/s" in text


@pytest.mark.parametrize(("passed", "says"), [(True, "passed"), (False, "failed")])
def test_weights_that_came_in_few_bits_are_told(make_bundle: Maker, passed: bool, says: str) -> None:
    folder = make_bundle()
    path = folder / "reports" / "validate.json"
    found = strictjson.read(path)
    found["graph"]["few_bits_kept"] = {"compared": 29, "differ": [], "passed": passed}
    path.write_text(strictjson.dumps(found))
    page = re.sub(r"<[^>]+>", " ", compose(folder).html.split('id="proof"')[1])
    assert re.search(rf"29 weights that came in few bits, bit for bit\W+{says}", page)
