"""What plan.json holds: source, calibration, steps and ordered edits, sealed with a digest.

Knows nothing of the arrays that edits name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from foldrank import strictjson
from foldrank.digests import WeightDigest
from foldrank.edits import AnyEdit
from foldrank.edits.base import MOST_BLOCKS
from foldrank.edits.laws import check_edits
from foldrank.errors import PlanFormatError

SCHEMA: Final = "foldrank.plan/1"
_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_STRICT)
class Source:
    """The checkpoint a plan was made for. `weights` digests every single-role weight that an edit reads (of every block
    that a fold names), as the checkpoint has it; what other edits replace, they digest themselves (`replaces`)."""

    name: str
    config_sha256: str
    architecture: str
    blocks: Annotated[int, Field(ge=1, le=MOST_BLOCKS)]
    weights: dict[str, WeightDigest]


@dataclass(frozen=True, config=_STRICT)
class Calibration:
    """The text statistics came from: name, sha256 of its bytes, windows of `window` tokens, how they were drawn. `bos`:
    the token that each window starts with, one of `window`; `shards`: parts that sums over the windows were made in.
    Without one the key is left out."""

    name: str
    sha256: str
    windows: int
    window: int
    tokens: int
    seed: int
    bos: int | None = None
    shards: Annotated[int, Field(ge=2)] | None = None


@dataclass(frozen=True, config=_STRICT)
class Keep:
    """Share of the decoder blocks' weights that a step leaves of what it was given. `asked` is null if not given."""

    asked: float | None
    reached: float


@dataclass(frozen=True, config=_STRICT)
class Step:
    """One method as it was run."""

    method: str
    settings: dict[str, bool | int | float | str | None]
    keep: Keep


@dataclass(frozen=True, config=_STRICT)
class FactorsRef:
    """sha256 and size of factors.safetensors."""

    sha256: str
    bytes: int


@dataclass(frozen=True, config=_STRICT)
class PlanDocument:
    """What plan.json holds. `digest` is the sha256 of the canonical text without itself: an edit by hand shows."""

    source: Source
    calibration: Calibration | None
    steps: tuple[Step, ...]
    predicted: dict[str, float | int]
    versions: dict[str, str]
    edits: tuple[AnyEdit, ...]
    factors: FactorsRef | None = None
    digest: str = ""
    schema: Literal["foldrank.plan/1"] = SCHEMA

    def __post_init__(self) -> None:
        check_edits(self.edits, self.source.blocks)

    def text(self) -> str:
        """Canonical JSON, sealed with its digest."""
        data = _DOCUMENT.dump_python(self, mode="json")
        if data["calibration"]:
            data["calibration"] = {key: value for key, value in data["calibration"].items() if value is not None}
        return strictjson.dumps({**data, "digest": _seal(data)})


_DOCUMENT: TypeAdapter[PlanDocument] = TypeAdapter(PlanDocument)


def read_document(path: Path) -> PlanDocument:
    """Read and check plan.json. Raises PlanFormatError."""
    try:
        data = strictjson.read(path, follow=False)
    except FileNotFoundError:
        raise PlanFormatError(path, "no such file", "give the folder that `foldrank plan -o` wrote") from None
    except (OSError, strictjson.JsonError) as error:
        raise PlanFormatError(path, str(error), "plan again") from None
    if not isinstance(data, dict):
        raise PlanFormatError(path, "not a JSON object", "plan again")
    if data.get("schema") != SCHEMA:
        raise PlanFormatError(path, f"schema is {data.get('schema')!r}, this version reads {SCHEMA!r}", "plan again")
    try:
        document = _DOCUMENT.validate_json(strictjson.dumps(data), strict=True)
    except ValidationError as error:
        raise PlanFormatError(path, strictjson.reasons(error), "plan again") from None
    if data.get("digest") != _seal(data):
        raise PlanFormatError(path, "changed after it was written (its digest does not fit)", "plan again")
    return document


def _seal(data: Mapping[str, Any]) -> str:
    body = {key: value for key, value in data.items() if key != "digest"}
    return hashlib.sha256(strictjson.dumps(body).encode()).hexdigest()
