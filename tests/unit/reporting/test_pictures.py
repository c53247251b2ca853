"""Pictures: what is drawn from which JSON, and that nothing of the drawing library shows through."""

import io
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colors, image
from sample_reports import benchmark

from foldrank.reporting.evidence import Evidence
from foldrank.reporting.front_chart import front
from foldrank.reporting.page import compose
from foldrank.reporting.parts import Picture, Table
from foldrank.reporting.picture import PAPER, SMALL, VARIABLES, canvas, inline_svg, png
from foldrank.reporting.similarity_map import similarity_map
from foldrank.reporting.spectra import Spectrum, read, spectra
from foldrank.reporting.speed_chart import before_after, speedups
from foldrank.reports.bench import FORM, Speedup
from foldrank.sites import Site

Maker = Callable[..., Path]


@pytest.mark.parametrize(("rank", "lost"), [(0, 1.0), (5, 0.75), (10, 0.5), (15, 0.25), (20, 0.0), (99, 0.0)])
def test_loss_at_a_rank_lies_between_the_stored_points(rank: int, lost: float) -> None:
    spectrum = Spectrum(Site.parse("block.00.o"), [0, 10, 20], [1.0, 0.5, 0.0], rank, 20)
    assert spectrum.at_rank == pytest.approx(lost)


def test_only_spectra_that_can_be_drawn_are_read(make_bundle: Maker) -> None:
    good = {"site": "block.03.qkv", "ranks": [0, 4], "values": [1.0, 0.0], "rank": None, "full": 4}
    odd: list[dict[str, Any]] = [
        {"site": "block.3.qkv"},
        {"site": "attention"},
        {"values": [1.0]},
        {"values": [1.0, "x"]},
        {"ranks": [0]},
        {"full": None},
    ]
    evidence = Evidence.read(
        make_bundle({"plan/diagnostics.json": {"spectra": [good, *(good | change for change in odd)]}})
    )
    assert [str(spectrum.site) for spectrum in read(evidence)] == ["block.03.qkv"]
    assert isinstance(spectra(evidence)[0], Picture)


def test_the_map_names_the_folded_windows_and_the_range(make_bundle: Maker) -> None:
    found = similarity_map(Evidence.read(make_bundle()))[0]
    assert isinstance(found, Picture)
    assert "Folded windows: blocks 5 to 7, blocks 9 to 10." in found.svg
    assert "to 1.00." in found.svg


def test_a_map_that_is_not_square_is_not_drawn(make_bundle: Maker) -> None:
    diagnostics = {"similarity": {"measure": "cka", "blocks": [0, 1], "matrix": [[1.0], [0.5, 1.0]]}}
    assert not isinstance(
        similarity_map(Evidence.read(make_bundle({"plan/diagnostics.json": diagnostics})))[0], Picture
    )


DECODE = Speedup(phase="decode", ratio=1.234, ci95=[1.2, 1.3], ideal=1.5, realised_over_ideal=0.82)


def test_speed_pictures_need_measured_ratios_and_both_bundles() -> None:
    assert speedups([]) == []
    assert before_after([row for row in FORM.parse(benchmark()).rows if row.bundle == "dense"]) == []
    drawn = speedups([DECODE])[0]
    assert "decode: 1.23×, ideal 1.50×." in drawn.svg


def test_colours_follow_the_page_and_fonts_too(make_bundle: Maker) -> None:
    page = compose(make_bundle()).html
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert not re.search("|".join([*VARIABLES, "DejaVu", "<style", "<metadata", "xmlns"]), drawn)
    defined = set(re.findall(r"^\s*(?:--\w+:.*)", page, flags=re.MULTILINE))
    names = {name for line in defined for name in re.findall(r"(--\w+):", line)}
    assert set(re.findall(r"var\((--\w+)\)", page)) <= names


def test_a_png_has_the_light_colours_of_the_page() -> None:
    style = (resources.files("foldrank.reporting") / "style.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"(--\w+): (#\w{6});", style[: style.index("@media")]))
    assert {variable: light[variable] for variable in VARIABLES.values()} == {v: c for c, v in VARIABLES.items()}
    drawn = speedups([DECODE])[0]
    found = png(drawn)
    assert found.startswith(b"\x89PNG")
    pixels = image.imread(io.BytesIO(found))
    assert pixels.shape[1] > 1000
    for colour in (PAPER, SMALL):
        assert np.isclose(pixels[..., :3], colors.to_rgb(colour), atol=0.003).all(axis=-1).any()


def test_hostile_text_in_a_picture_is_text() -> None:
    from matplotlib.figure import Figure

    with canvas("x"):
        figure = Figure()
        figure.text(0.5, 0.5, "<script>$x$ & ]]>")
        svg = inline_svg(figure, "x", '"><script>')
    assert "<script" not in svg
    assert "&lt;script&gt;$x$ &amp;" in svg


def test_the_front_and_its_axes_are_shown_where_a_plan_tells_them(make_bundle: Maker) -> None:
    told = {"auto_front": [{"of_budget": 0.5, "predicted_nats": 0.4}, {"of_budget": 1.0, "predicted_nats": 0.1},
                           {"of_budget": None}],
            "auto_axes": [{"axis": "width", "predicted_nats": 0.08, "alone_nats": None},
                          {"axis": "bits", "predicted_nats": 0.02, "alone_nats": 0.3}]}
    drawn, rows = front(Evidence.read(make_bundle({"plan/diagnostics.json": told})))
    assert isinstance(drawn, Picture)
    assert "50.0 %: 0.400 nats" in drawn.svg
    assert isinstance(rows, Table)
    assert [[cell.text for cell in row][0::2] for row in rows.rows] == [
        ["narrower MLPs", "out of reach"], ["few bits", "0.300 nats"]]
    assert front(Evidence.read(make_bundle({"plan/diagnostics.json": {}}))) == []
