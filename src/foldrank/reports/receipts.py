"""reports/receipts.json: what each graph pass did, change by change, in order."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from foldrank.reports.form import STRICT, Form, Part

SCHEMA: Final = "foldrank.receipts/1"


@dataclass(frozen=True, config=STRICT)
class Row(Part):
    """One change of one pass ("pass" in the file) at one place; bytes of initializers before and after."""

    name: Annotated[str, Field(alias="pass")]
    effect: str
    where: str
    bytes_before: int
    bytes_after: int
    reason: str


@dataclass(frozen=True, config=STRICT)
class Receipts(Part):
    """What `foldrank apply` did."""

    receipts: list[Row]
    schema: Literal["foldrank.receipts/1"] = SCHEMA


def _rows(data: Any) -> Any:
    """Before there was a schema the file held the rows alone."""
    return {"receipts": data} if isinstance(data, list) else data


FORM: Final = Form("reports/receipts.json", Receipts, SCHEMA, "foldrank apply", older=_rows)
