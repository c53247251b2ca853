"""`foldrank report`: one self-contained page, and the model card, from a bundle's JSON files."""

from __future__ import annotations

from pathlib import Path

from foldrank.bundle import Bundle
from foldrank.errors import ProviderUnavailable
from foldrank.progress import SILENT, Progress
from foldrank.reporting.card import model_card


def report(bundle: Path | str | Bundle, *, progress: Progress = SILENT) -> Path:
    """Write report.html and README.md into the bundle; gives the page's path.

    Raises SourceError and BundleError (no bundle), ProviderUnavailable (the extra `report` is not installed).
    """
    try:
        from foldrank.reporting.page import render
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("matplotlib", "jinja2"):
            raise
        raise ProviderUnavailable(
            "report",
            f"{error.name} is not installed",
            "pip install 'foldrank[report]'",
        ) from None
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    page = render(opened.path, progress=progress)
    card = model_card(opened.path, also=("report.html",))
    opened.with_files({"report.html": page.encode(), "README.md": card.encode()})
    return opened.path / "report.html"
