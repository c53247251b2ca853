"""What the pages name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = r"tests|src|graph|plans|passes|export|runtime|benchmarks|examples|\.ci|\.github|docs"
PAGES = [page.relative_to(ROOT).as_posix() for page in (*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md")))]


def missing(text: str, folder: Path) -> list[str]:
    """Files that the page names, and targets of its links, that are not there."""
    named = re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", text)
    linked = re.findall(r"\]\((?!https?:)([\w./-]+)", text)
    return [name for name in named if not (ROOT / name).exists()] + [
        name for name in linked if not (folder / name).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_files_and_links_that_a_page_names_are_there(page: str) -> None:
    assert missing((ROOT / page).read_text(encoding="utf-8"), (ROOT / page).parent) == []


def test_what_is_not_there_is_noticed() -> None:
    assert missing("`docs/no.md` [a](cli.md) [b](../no.md)", ROOT / "docs") == ["docs/no.md", "../no.md"]
