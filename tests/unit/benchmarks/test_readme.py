"""The figures of README and docs are those of the committed JSON."""

from pathlib import Path

from foldrank.benchmarks.readme import filled


def test_every_figure_of_the_readme_comes_from_its_json(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- figures: ") == text.count("<!-- end -->") >= 2
    assert filled(text, root / "benchmarks" / "results") == text


def test_the_page_on_gpus_shows_what_was_measured_there(root: Path) -> None:
    text = (root / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert text.count("<!-- figures: ") == 6
    assert filled(text, root / "benchmarks" / "results") == text


def test_the_table_of_families_is_what_the_matrix_found(root: Path) -> None:
    text = (root / "docs" / "families.md").read_text(encoding="utf-8")
    assert text.count("<!-- figures: ") == 2
    assert filled(text, root / "benchmarks" / "results") == text


def test_the_page_on_methods_shows_what_few_bits_fewer_branches_and_narrower_mlps_cost(root: Path) -> None:
    text = (root / "docs" / "methods.md").read_text(encoding="utf-8")
    assert text.count("<!-- figures: ") == 6
    assert filled(text, root / "benchmarks" / "results") == text
