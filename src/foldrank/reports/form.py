"""What the reports share: how an object of a schema becomes a JSON file and a JSON file such an object, and gates.

A class says what a report holds, with what an older report may lack as a default. Knows nothing of what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, Literal, TypeVar

from pydantic import ConfigDict, SerializerFunctionWrapHandler, TypeAdapter, ValidationError, model_serializer
from pydantic.dataclasses import dataclass
from pydantic_core import to_jsonable_python

from foldrank import strictjson
from foldrank.bundle.bundle import Bundle
from foldrank.errors import BundleError

STRICT = ConfigDict(extra="forbid", strict=True)
R = TypeVar("R")
Verdict = Literal["pass", "fail"]


@dataclass(frozen=True, config=STRICT)
class Part:
    """A report or an object inside one."""

    def absent(self) -> Iterable[str]:
        """Fields that are None and then not written, where others of that value are written as null."""
        return ()

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        absent = set(self.absent())
        return {key: value for key, value in write(self).items() if key not in absent}


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Gate(Part):
    """A limit, what was measured, and whether that holds; `passed` is null where nothing was measured. `rule` says how
    the two are compared where the name does not."""

    name: str
    limit: float | None
    value: float | None
    passed: bool | None
    rule: str | None = None

    def absent(self) -> Iterable[str]:
        """A rule that needs no words."""
        return ("rule",) if self.rule is None else ()


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Judged(Part):
    """A report with gates, and the verdict that follows from them."""

    gates: list[Gate]
    verdict: Verdict

    @property
    def failed(self) -> bool:
        """Whether a gate failed."""
        return self.verdict == "fail" or any(gate.passed is False for gate in self.gates)


def plain(part: Any) -> Any:
    """A part of a report, or several, as plain JSON values."""
    return to_jsonable_python(part)


class Form(Generic[R]):
    """One report as a file: its name in a bundle, the class that holds it, its schema, the command that writes it."""

    def __init__(
        self, file: str, made: type[R], schema: str, again: str, *, older: Callable[[Any], Any] = lambda data: data
    ) -> None:
        """`older` gives data of an earlier form the form of today, and leaves all else as it is."""
        self.file, self.schema, self.again = file, schema, again
        self._adapter: TypeAdapter[R] = TypeAdapter(made)
        self._older = older

    def document(self, report: R) -> dict[str, Any]:
        """The report as plain JSON values."""
        found: dict[str, Any] = self._adapter.dump_python(report, mode="json", by_alias=True)
        return found

    def data(self, report: R) -> bytes:
        """The file's content."""
        return strictjson.dumps(self.document(report)).encode()

    def parse(self, data: Any, where: object = None) -> R:
        """The object of plain JSON values. Raises BundleError, with all that does not fit."""
        data, way_out = self._older(data), f"run `{self.again}` again"
        if isinstance(data, dict) and (found := data.get("schema", self.schema)) != self.schema:
            what = f"schema is {found!r}, this version reads {self.schema!r}"
            raise BundleError(where or self.file, what, way_out)
        try:
            return self._adapter.validate_json(strictjson.dumps(data), strict=True)
        except ValidationError as error:
            raise BundleError(where or self.file, strictjson.reasons(error), way_out) from None

    def read(self, bundle: Bundle) -> R | None:
        """The report of a bundle, None where it has none. Raises BundleError."""
        data = bundle.json(self.file)
        return None if data is None else self.parse(data, bundle.path / self.file)
