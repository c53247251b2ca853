"""README's figures are those of the committed JSON."""

from pathlib import Path

from foldrank.benchmarks.readme import filled


def test_every_figure_of_the_readme_comes_from_its_json(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- figures: ") == text.count("<!-- end -->") >= 2
    assert filled(text, root / "benchmarks" / "results") == text
