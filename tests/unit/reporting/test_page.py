"""The page says what the JSON says, and loads nothing."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from page_words import tags, words

from foldrank import strictjson
from foldrank.reporting.page import compose

Maker = Callable[..., Path]
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


def test_the_same_bundle_gives_the_same_page(make_bundle: Maker, drawn_anew: Callable[[], None]) -> None:
    folder = make_bundle()
    first = compose(folder).html
    drawn_anew()
    assert compose(folder).html == first


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
