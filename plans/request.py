"""`NAME:KEY=VALUE,KEY=VALUE` read strictly into a method and its settings; wrong use is a ValueError."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from foldrank import strictjson
from foldrank.edits.base import Phase
from foldrank.errors import ProviderUnavailable
from foldrank.plans import METHODS
from foldrank.plans.method import Method


@dataclass(frozen=True)
class Request:
    """One method with the settings it was asked to run with."""

    method: Method
    settings: Any

    @property
    def last(self) -> Phase:
        """The phase of the method's last edits with these settings."""
        return self.method.last(self.settings)

    @property
    def values(self) -> dict[str, bool | int | float | str | None]:
        """The settings by name, defaults included."""
        return {f.name: getattr(self.settings, f.name) for f in fields(self.settings)}


def parse(text: str) -> Request:
    """Read one request. Raises ValueError: unknown method, unknown, repeated or missing key, value out of range;
    ProviderUnavailable where what it needs is not installed."""
    name, colon, rest = text.partition(":")
    method = find(name)
    values = _pairs(text, rest) if colon else {}
    known = [f.name for f in fields(method.settings)]
    if unknown := [key for key in values if key not in known]:
        raise ValueError(f"method {name}: unknown setting {', '.join(unknown)}; known are {', '.join(known)}")
    try:
        settings: Any = TypeAdapter(method.settings).validate_python(values)
    except ValidationError as error:
        raise ValueError(f"method {text}: {strictjson.reasons(error)}") from None
    method.ready(settings)
    return Request(method, settings)


def aligned(text: str, multiple: int) -> str:
    """The request with ranks in multiples of that, where the method has ranks and the user said nothing of them."""
    request = parse(text)
    own = request.values.get("align")
    said = any(item.startswith("align=") for item in text.partition(":")[2].split(","))
    if not isinstance(own, int) or said or own >= multiple:
        return text
    return f"{text}{',' if ':' in text else ':'}align={multiple}"


def find(name: str) -> Method:
    """The method of this name. Raises ValueError with the known names, ProviderUnavailable where its library lacks."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known are {', '.join(sorted(METHODS))}")
    module, _, attribute = METHODS[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "foldrank").partition(".")[0] == "foldrank":
            raise
        way_out = "pip install 'foldrank[torch]'"
        raise ProviderUnavailable(f"method {name}", f"{error.name} is not installed", way_out) from None


def _pairs(text: str, rest: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for item in rest.split(","):
        key, equals, value = item.partition("=")
        if not equals or not key or not value:
            raise ValueError(f"method {text!r}: {item!r} is not KEY=VALUE; write NAME:KEY=VALUE,KEY=VALUE")
        if key in values:
            raise ValueError(f"method {text!r}: {key} stands twice")
        values[key] = value
    return values
