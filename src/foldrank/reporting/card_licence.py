"""The model card's word on the licence: what the source checkpoint's own card states, and the files carried over."""

from __future__ import annotations

from foldrank.model.licence import KEYS, is_licence
from foldrank.reporting import lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.markdown import code


def files(evidence: Evidence) -> list[str]:
    """Names of the bundle's licence files."""
    return [name for name in evidence.sizes if "/" not in name and is_licence(name)]


def metadata(evidence: Evidence) -> dict[str, str | list[str]]:
    """The front matter's licence keys; `other` with a link where the source has a file and its card states none."""
    stated = {key: value for key in KEYS if (value := lookup.text(evidence.manifest, "source", key))}
    if "license" not in stated:
        return {"license": "other", "license_link": held[0]} if (held := files(evidence)) else {}
    several = stated["license"].split(",")
    return {**stated, "license": several if len(several) > 1 else several[0]}


def sentence(evidence: Evidence) -> str:
    """Which licence applies, and where its text lies."""
    stated = lookup.text(evidence.manifest, "source", "license")
    name = lookup.text(evidence.manifest, "source", "license_name")
    which = f" ({code(name if name and stated == 'other' else stated)})" if stated else ""
    held = files(evidence)
    where = f": see {', '.join(code(file) for file in held)}" if held else ""
    return f"The licence of the source checkpoint{which} applies{where}."
