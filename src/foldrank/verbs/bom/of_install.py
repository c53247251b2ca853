"""The bill of materials of this install: every installed distribution that foldrank's requirements reach."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from foldrank.verbs.bom.document import Component, document, library, licence

ROOT = "foldrank"
_LICENCE = "License :: "
_WORDS = 64
"""Characters of a licence's name; longer is its text."""


def install_bom() -> str:
    """CycloneDX JSON of the distributions, their licences as they state them, and who requires whom."""
    reached = _reached()
    components = {name: _component(name, found) for name, (found, _) in sorted(reached.items())}
    needs = [{"ref": components[name]["bom-ref"],
              "dependsOn": sorted(components[other]["bom-ref"] for other in reached[name][1])} for name in components]
    subject = {**components.pop(ROOT), "type": "application"}
    return document(subject, components.values(), dependencies=needs)


def _reached() -> dict[str, tuple[metadata.Distribution, set[str]]]:
    """Distribution by normalised name, with the names of those it requires here. Of foldrank itself every extra counts:
    what is installed of it is part of the install."""
    root = metadata.distribution(ROOT)
    reached: dict[str, tuple[metadata.Distribution, set[str]]] = {}
    pending = [(str(canonicalize_name(ROOT)), root, frozenset(root.metadata.get_all("Provides-Extra") or ()))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        name, found, extras = pending.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        needs = reached.setdefault(name, (found, set()))[1]
        for requirement in _required(found, extras):
            try:
                other = metadata.distribution(requirement.name)
            except metadata.PackageNotFoundError:
                continue
            needs.add(canonicalize_name(requirement.name))
            pending.append((canonicalize_name(requirement.name), other, frozenset(requirement.extras)))
    return reached


def _required(found: metadata.Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    for text in found.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue  # of another's metadata: who installed it could not follow it either
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def _component(name: str, found: metadata.Distribution) -> Component:
    stated = _licences(found)
    return {**library(_field(found, "Name") or name, _field(found, "Version") or "0"),
            **({"licenses": stated} if stated else {})}


def _licences(found: metadata.Distribution) -> list[dict[str, Any]]:
    """PEP 639's expression, else the licence's name, else its classifiers; a licence's whole text is none of them."""
    if expression := _field(found, "License-Expression"):
        return [{"expression": expression}]
    name = (_field(found, "License") or "").strip()
    if name and "\n" not in name and len(name) <= _WORDS and name.upper() != "UNKNOWN":
        return [licence(name)]
    kinds = [line.split(" :: ")[-1] for line in found.metadata.get_all("Classifier") or () if line.startswith(_LICENCE)]
    return [licence(kind) for kind in kinds if kind != "OSI Approved"]


def _field(found: metadata.Distribution, name: str) -> str | None:
    return (found.metadata.get_all(name) or (None,))[0]
