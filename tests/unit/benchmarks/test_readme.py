"""The figures of README and docs are those of the committed JSON."""

import re
from pathlib import Path

import pytest

from foldrank.benchmarks.readme import TABLES, filled

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = {page.relative_to(ROOT).as_posix(): re.findall(r"<!-- figures: (\w+) -->", page.read_text(encoding="utf-8"))
         for page in PAGES}


@pytest.mark.parametrize("page", [page for page, names in SHOWN.items() if names])
def test_every_figure_of_a_page_comes_from_its_json(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text.count("<!-- figures: ") == text.count("<!-- end -->")
    assert filled(text, ROOT / "benchmarks" / "results") == text


def test_every_table_stands_on_one_page_and_once() -> None:
    assert sorted(name for names in SHOWN.values() for name in names) == sorted(TABLES)
