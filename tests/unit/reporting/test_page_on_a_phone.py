"""What a reader with a narrow screen, or with a question, finds on the page: columns, captions, samples, commands."""

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from foldrank.plans import METHODS
from foldrank.plans.request import parse
from foldrank.reporting import picture
from foldrank.reporting.absent import absent
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.page import compose
from foldrank.reporting.reproduced import reproduced
from foldrank.reports.bench import Peers

Maker = Callable[..., Path]


def lines(folder: Path) -> list[list[str]]:
    (part,) = reproduced(Evidence.read(folder))
    return [shlex.split(line) for line in part.lines]  # type: ignore[union-attr]


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not written out, which is what takes long."""
    monkeypatch.setattr(picture, "inline_svg", lambda *_: '<svg role="img"></svg>')


@pytest.fixture
def page(make_bundle: Maker) -> str:
    return compose(make_bundle()).html


def test_every_table_and_picture_scrolls_in_a_box_of_its_own(page: str) -> None:
    """Nothing but these can be wider than a screen of 390 pixels; the page itself then never scrolls sideways."""
    for tag in ("<table", "<svg", "<pre"):
        starts = [found.start() for found in re.finditer(tag, page)]
        assert starts, tag
        assert all(page.rindex('<div class="scroll"', 0, at) > page.rfind("</div>", 0, at) for at in starts), tag


def test_no_column_leaves_on_a_narrow_screen_and_captions_keep_its_width(page: str) -> None:
    style = page[page.index("<style>") : page.index("</style>")]
    narrow = style[style.index("@media (max-width") : style.index("@media (min-width")]
    assert "display: none" not in narrow
    assert re.search(r"tbody th \{ position: sticky; left: 0", narrow)
    assert re.search(r"caption span \{ position: sticky; left: 0;[^}]*max-width: min\(46rem, calc\(100vw", style)
    assert len(re.findall(r"<caption><span>.+?</span></caption>", page)) == page.count("<caption>") > 2


def test_dense_and_compressed_text_stand_side_by_side(page: str) -> None:
    row = page[page.index("this bundle writes") :]
    assert "A valve ⏎ opens" in row
    assert row.index("and the pump runs") < row.index("and the &lt;b&gt;pump&lt;/b&gt;")
    assert "<b>pump</b>" not in page


def test_without_samples_there_is_no_table_of_them_and_a_long_one_keeps_its_end(make_bundle: Maker) -> None:
    assert "this bundle writes" not in compose(make_bundle({"reports/validate.json": None})).html
    from foldrank.reporting import section_quality

    assert section_quality._one_line("x" * 500 + "end") == f"… {'x' * 397}end"


def test_an_unstable_row_says_why(page: str) -> None:
    speed = page[page.index('<section id="speed">') :]
    ratios, rows = speed.split("All ")[0], speed.split("All ")[1]
    assert "the 95 % interval is 12.0% wide" in ratios
    assert "samples fall into two groups, 9.0% apart" in rows


def test_what_was_not_timed_says_why(make_bundle: Maker) -> None:
    evidence = Evidence.read(make_bundle())
    assert evidence.bench is not None
    assert evidence.bench.method is not None
    method = replace(evidence.bench.method, unavailable={"genai": "it does not start"}, dropped_prompts=[2048])
    peers = Peers(engine="genai", entries=[], unavailable={"optimum": "exporter optimum: not installed"})
    (part,) = absent(evidence, replace(evidence.bench, method=method, peers=peers))
    assert [[cell.text for cell in row] for row in part.rows] == [  # type: ignore[union-attr]
        ["genai", "it does not start"], ["prompt 2,048", "longer than the model's context of 1,024 tokens"],
        ["against optimum", "exporter optimum: not installed"]]
    assert absent(evidence, evidence.bench) == []


def test_a_compressed_bundle_is_made_again_by_three_commands_that_parse(make_bundle: Maker) -> None:
    folder = make_bundle()
    export, plan, apply = lines(folder)
    assert export[:3] == ["foldrank", "export", "specs-5m"]
    assert apply == ["foldrank", "apply", "dense", "plan", "-o", "small"]
    asked = [parse(word) for before, word in pairwise(plan) if before == "--method"]
    assert [(a.method.name, a.values["keep"]) for a in asked] == [("slm", 0.75), ("dipsvd", 0.8)]
    assert (asked[0].values["rule"], asked[1].values["whitening"]) == ("top", "plain")
    assert plan[plan.index("--calibration-tokens") + 1] == "16384"
    assert plan[plan.index("--calibration") + 1] == "calibration.jsonl"
    assert "foldrank export specs-5m" in compose(folder).html


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_settings_that_a_plan_notes_are_read_back_as_they_were(name: str) -> None:
    from foldrank.reporting.reproduced import _method

    settings = {"quantize": ":bits=8", "layerwise": ":bits=6", "adapter": ":path=some/folder,rank=4",
                "merge": ":path=one+other,weights=1+0.5", **dict.fromkeys(("rotate", "pre_rmsnorm"), "")}
    request = parse(f"{name}{settings.get(name, ':keep=0.8')}")
    assert parse(_method({"method": name, "settings": request.values})).values == request.values


@pytest.mark.parametrize(("bos", "said"), [(1, "always"), (None, "never")])
def test_what_windows_opened_with_is_in_the_command(make_bundle: Maker, bos: int | None, said: str) -> None:
    evidence = Evidence.read(make_bundle())
    plan = {**evidence.plan, "calibration": {**evidence.plan["calibration"], "bos": bos}}
    (part,) = reproduced(Evidence(evidence.sizes, evidence.manifest, plan=plan))
    words = shlex.split(part.lines[1])  # type: ignore[union-attr]
    assert words[words.index("--bos") + 1] == said


def test_recovery_and_a_text_of_ones_own_are_in_the_command(make_bundle: Maker) -> None:
    settings: dict[str, Any] = {"kind": "factors", "steps": 64, "tokens": 131072, "text": "my text.jsonl " + "e" * 64}
    evidence = Evidence.read(make_bundle())
    plan = {**evidence.plan, "steps": [{"method": "recover", "settings": settings}]}
    (part,) = reproduced(Evidence(evidence.sizes, evidence.manifest, plan=plan))
    words = shlex.split(part.lines[1])  # type: ignore[union-attr]
    assert words[3:11] == ["--recover", "factors", "--recover-tokens", "131072", "--recover-steps", "64",
                           "--recover-text", "my text.jsonl"]


def test_a_dense_bundle_is_made_again_by_its_own_command_and_none_is_told_without_a_manifest(
    make_bundle: Maker
) -> None:
    folder = make_bundle({"reports/bench.json": None, "reports/validate.json": None}, plan=False)
    manifest = {**Evidence.read(folder).manifest, "command": "export specs-5m --exporter genai --dtype fp32"}
    (part,) = reproduced(Evidence({}, manifest))
    assert part.lines == ("foldrank export specs-5m --exporter genai --dtype fp32 -o dense",)  # type: ignore[union-attr]
    assert reproduced(Evidence({})) == []
