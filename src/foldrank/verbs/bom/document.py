"""The frame of a bill of materials, and the parts that every one has. Knows CycloneDX's form, not what is listed."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from foldrank import __version__, strictjson
from foldrank.clock import now

Component = dict[str, Any]

_SPDX = {name.lower(): name for name in (
    "Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "ISC", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense",
    "Zlib", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "GPL-2.0", "GPL-3.0", "LGPL-2.1",
    "LGPL-3.0", "AGPL-3.0", "BSL-1.0", "Artistic-2.0",
)}
"""Licences that are told by their SPDX id, from however it is capitalised: the Hub writes `apache-2.0`."""


def document(subject: Component, components: Iterable[Component], **more: Any) -> str:
    """The whole as canonical JSON. Its serial number is of its content, so that the same content has the same bytes."""
    body = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "bomFormat": "CycloneDX", "specVersion": "1.6",
        "version": 1, "components": list(components), **more,
        "metadata": {"timestamp": now(), "component": subject,
                     "tools": {"components": [{"type": "application", "name": "foldrank", "version": __version__}]}},
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, strictjson.dumps(body))
    return strictjson.dumps({**body, "serialNumber": f"urn:uuid:{serial}"})


def sha256(digest: str) -> list[dict[str, str]]:
    """A component's `hashes`."""
    return [{"alg": "SHA-256", "content": digest}]


def properties(values: Mapping[str, object]) -> list[dict[str, str]]:
    """Under our own name, each as text; what is None is left out."""
    return [{"name": f"foldrank:{name}", "value": str(value)} for name, value in values.items() if value is not None]


def library(name: str, version: str) -> Component:
    """A distribution of PyPI."""
    place = purl(name, version)
    return {"type": "library", "bom-ref": place, "name": name, "version": version, "purl": place}


def purl(name: str, version: str) -> str:
    """https://github.com/package-url/purl-spec: names as PyPI normalises them."""
    return f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{quote(version, safe='')}"


def licence(name: str, link: str | None = None) -> dict[str, Any]:
    """One of a component's `licenses`: by its id where we know it, else by its name."""
    known = _SPDX.get(name.lower())
    return {"license": {"id": known} if known else {"name": name, **({"url": link} if link else {})}}
