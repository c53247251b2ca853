"""The HTML page: sections in order, one template, one style sheet, everything in one file and nothing fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from foldrank import __version__
from foldrank.progress import SILENT, Progress, track
from foldrank.reporting.bytes_chart import where_bytes_went
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.parts import Picture, Section
from foldrank.reporting.picture import png
from foldrank.reporting.section_done import done
from foldrank.reporting.section_origin import origin
from foldrank.reporting.section_proof import proof
from foldrank.reporting.section_quality import quality
from foldrank.reporting.section_receipts import receipts
from foldrank.reporting.section_speed import speed
from foldrank.reporting.section_top import tiles, verdict
from foldrank.reporting.similarity_map import similarity_map
from foldrank.reporting.spectra import spectra


def _similar(evidence: Evidence) -> Section:
    return Section("similarity", "How alike the blocks are", tuple(similarity_map(evidence)))


def _spectra(evidence: Evidence) -> Section:
    return Section("spectra", "What each rank loses", tuple(spectra(evidence)))


def _bytes(evidence: Evidence) -> Section:
    title = "Where the bytes went" if evidence.plan is not None else "Where the bytes are"
    return Section("bytes", title, tuple(where_bytes_went(evidence)))


_ALWAYS = (done, _bytes, quality, proof, speed, origin, receipts)
_COMPRESSED = (done, _similar, _spectra, _bytes, quality, proof, speed, origin, receipts)


@dataclass(frozen=True)
class Page:
    """The page, and the sections it was made from."""

    html: str
    sections: Sequence[Section]

    def pngs(self) -> dict[str, bytes]:
        """Every picture of the page as a PNG, by file name."""
        return {
            f"{part.name}.png": png(part)
            for section in self.sections for part in section.parts if isinstance(part, Picture)
        }


def compose(folder: Path, *, progress: Progress = SILENT) -> Page:
    """The page for a bundle folder. Raises BundleError where a JSON file is damaged."""
    evidence = Evidence.read(folder)
    makers = _COMPRESSED if evidence.plan is not None else _ALWAYS
    sections = [make(evidence) for make in track(makers, "report", len(makers), progress)]
    html = _template().render(
        name=evidence.name or evidence.architecture or "decoder",
        evidence=evidence,
        verdict=verdict(evidence),
        tiles=tiles(evidence),
        sections=sections,
        style=_text("style.css"),
        version=__version__,
    )
    return Page(html, sections)


def _template() -> Template:
    environment = Environment(
        loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")


def _text(name: str) -> str:
    return (resources.files("foldrank.reporting") / name).read_text(encoding="utf-8")
