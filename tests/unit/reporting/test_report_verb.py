"""`foldrank.report`: both files land in a bundle that is still one; a missing extra is named."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from foldrank.bundle.bundle import Bundle
from foldrank.cli.main import cli
from foldrank.errors import BundleError, ProviderUnavailable, SourceError
from foldrank.verbs.report import report

Maker = Callable[..., Path]


def test_page_and_card_are_written_and_sealed(make_bundle: Maker) -> None:
    folder = make_bundle()
    path = report(folder)
    assert path == folder.absolute() / "report.html"
    files = Bundle.open(folder).manifest.files
    assert {"report.html", "README.md"} <= set(files)
    assert "`report.html`" in (folder / "README.md").read_text()


def test_a_second_report_changes_nothing(make_bundle: Maker) -> None:
    folder = make_bundle()
    first = report(folder).read_bytes(), (folder / "README.md").read_bytes()
    assert (report(folder).read_bytes(), (folder / "README.md").read_bytes()) == first


def test_pictures_are_written_as_png_where_asked(make_bundle: Maker, tmp_path: Path) -> None:
    folder, pictures = make_bundle(), tmp_path / "a" / "pictures"
    done = CliRunner().invoke(cli, ["report", str(folder), "--png", str(pictures), "--json", "-q"])
    assert json.loads(done.stdout) == {"report": str(folder / "report.html"), "png": str(pictures)}
    names = {"bytes", "context", "quality", "roofline", "similarity", "spectra", "speedups", "times"}
    assert {path.name for path in pictures.iterdir()} == {f"{name}.png" for name in names}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures.iterdir())
    Bundle.open(folder)


def test_pictures_never_go_into_the_bundle_or_over_a_file(make_bundle: Maker, tmp_path: Path) -> None:
    folder = make_bundle()
    with pytest.raises(SourceError, match="lies in the bundle"):
        report(folder, png=folder / "reports")
    assert not (folder / "report.html").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SourceError, match="cannot be written"):
        report(folder, png=tmp_path / "file")


def test_without_matplotlib_only_the_pictures_are_lost(
    make_bundle: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_bundle()
    drawn = report(folder).read_text()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = report(folder).read_text()
    assert page.count("<figcaption>") == drawn.count("<figcaption>") == 8
    assert (page.count("not drawn: matplotlib is not installed"), page.count("<svg"), drawn.count("<svg")) == (8, 0, 8)
    assert page.count("<table") == drawn.count("<table")
    with pytest.raises(ProviderUnavailable, match=r"matplotlib: is not installed; pip install 'foldrank\[report\]'"):
        report(folder, png=tmp_path / "pictures")


@pytest.mark.parametrize("package", ["jinja2"])
def test_a_missing_extra_is_named_and_nothing_is_written(
    make_bundle: Maker, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_bundle()
    for name in [name for name in sys.modules if name.startswith("foldrank.reporting.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ProviderUnavailable, match=r"pip install 'foldrank\[report\]'") as caught:
        report(folder)
    assert caught.value.exit_code == 3
    assert not (folder / "report.html").exists()


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a bundle"):
        report(tmp_path)
