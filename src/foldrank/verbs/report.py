"""`foldrank report`: one self-contained page, and the model card, from a bundle's JSON files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from foldrank.bundle.bundle import Bundle
from foldrank.disk.staging import write_atomically
from foldrank.errors import SourceError
from foldrank.installed import require
from foldrank.progress import SILENT, Progress
from foldrank.reporting.card import model_card

PAGE, PICTURES = "jinja2", "matplotlib"
"""What draws the page, and its pictures."""


def report(bundle: Path | str | Bundle, *, png: Path | str | None = None, progress: Progress = SILENT) -> Path:
    """Write report.html and README.md into the bundle; gives the page's path. `png`: a folder for its pictures too.

    Without matplotlib the page says so in the place of each picture. Raises SourceError (no bundle, or a folder that
    cannot take pictures), BundleError, ProviderUnavailable (jinja2 is not installed, or matplotlib where PNGs are
    asked for).
    """
    require({PAGE: "report"} if png is None else {PAGE: "report", PICTURES: "report"})
    from foldrank.reporting.page import compose

    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if png is not None and Path(png).expanduser().resolve().is_relative_to(opened.path.resolve()):
        raise SourceError(png, "lies in the bundle, whose manifest names every file", "give a folder outside of it")
    page = compose(opened.path, progress=progress)
    card = model_card(opened.path, also=("report.html",))
    opened.with_files({"report.html": page.html.encode(), "README.md": card.encode()})
    if png is not None:
        _write(Path(png).expanduser(), page.pngs())
    return opened.path / "report.html"


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Files of the same names are replaced, as the page itself is."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(folder / name, data)
    except OSError as error:
        raise SourceError(folder, f"cannot be written: {error.strerror}", "give another folder") from None
