"""What the pages name is there."""

import re
from pathlib import Path

import pytest

PAGES = ("SECURITY.md", "docs/supply-chain.md", "docs/serve.md", "docs/package.md", "docs/ci.md", "docs/recipes.md")


@pytest.mark.parametrize("page", PAGES)
def test_files_and_links_that_a_page_names_are_there(page: str, root: Path) -> None:
    text = (root / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:tests|src|graph|\.ci|docs)/[\w./-]+)`", text)
    linked = re.findall(r"\]\((?!https:)([\w./-]+)", text)
    assert [name for name in named if not (root / name).exists()] == []
    assert [name for name in linked if not (root / page).parent.joinpath(name).exists()] == []
    assert len([*named, *linked]) > 0
