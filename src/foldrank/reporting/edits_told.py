"""What a plan's edits say of themselves to people, kind by kind, for the card. Knows no kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter, ValidationError

from foldrank import strictjson
from foldrank.edits import KINDS, Edit, class_of
from foldrank.reporting import lookup


def gists(plan: Any) -> list[str]:
    """A sentence for each kind that has one."""
    return [gist for kind, edits in _by_kind(plan) if (gist := class_of(kind).gist(edits))]


def beyond_config(plan: Any) -> str:
    """What config.json does not say of the model, and what that means for who loads it; empty where it says all."""
    unsaid = [what for kind, _ in _by_kind(plan) if (what := class_of(kind).unsaid)]
    if not unsaid:
        return ""
    return (f"`config.json` has no words for {' and '.join(unsaid)}: what it says of them is true of the source. The "
            "graph holds what is there, so onnxruntime-genai, ONNX Runtime and optimum load this bundle as any other; "
            "transformers cannot build the model from `config.json`.")


def _by_kind(plan: Any) -> Iterator[tuple[str, list[Edit]]]:
    """The edits of each kind; those that this version cannot read are left out."""
    rows = lookup.rows(plan, "edits")
    for kind in KINDS:
        found: list[Edit] = []
        for row in rows:
            if row.get("kind") == kind:
                try:
                    found.append(TypeAdapter(class_of(kind)).validate_json(strictjson.dumps(row), strict=True))
                except ValidationError:
                    continue
        if found:
            yield kind, found
