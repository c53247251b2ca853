"""The plan: ordered edits plus factors, on disk a folder that can be read, diffed and replayed without PyTorch.

`plan.json` is canonical JSON; `factors.safetensors` holds float32 arrays and is absent where no edit needs one;
`diagnostics.json`, free in form, holds what pictures are drawn from and is never needed to apply a plan.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from foldrank import strictjson
from foldrank.digests import WeightDigest, sha256_file
from foldrank.edits import Edit, FewBits, FoldBlocks, LowRank, QuantizeHead, QuantizeWeight, ReplaceWeight
from foldrank.errors import PlanFormatError
from foldrank.factors import FactorFile, write_factors
from foldrank.sites import Site

SCHEMA: Final = "foldrank.plan/1"
_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_STRICT)
class Source:
    """The checkpoint a plan was made for. `weights` digests every single-role weight of every block that a fold names,
    as the checkpoint has it; what other edits replace, they digest themselves (`replaces`)."""

    name: str
    config_sha256: str
    architecture: str
    blocks: int
    weights: dict[str, WeightDigest]


@dataclass(frozen=True, config=_STRICT)
class Calibration:
    """The text statistics came from: name, sha256 of its bytes, windows of `window` tokens, how they were drawn."""

    name: str
    sha256: str
    windows: int
    window: int
    tokens: int
    seed: int


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
    edits: tuple[Edit, ...]
    factors: FactorsRef | None = None
    digest: str = ""
    schema: Literal["foldrank.plan/1"] = SCHEMA

    def __post_init__(self) -> None:
        _check_edits(self.edits, self.source.blocks)

    def text(self) -> str:
        """Canonical JSON, sealed with its digest."""
        data = _DOCUMENT.dump_python(self, mode="json")
        return strictjson.dumps({**data, "digest": _seal(data)})


_DOCUMENT: TypeAdapter[PlanDocument] = TypeAdapter(PlanDocument)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan in hand: its document, its arrays by name (float32, read when asked for), its diagnostics.

    Not pydantic's dataclass: that copies a mapping into a dict, which would read every array of a file.
    """

    document: PlanDocument
    arrays: Mapping[str, np.ndarray]
    diagnostics: dict[str, Any] | None = None

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits in order."""
        return self.document.edits

    @property
    def folds(self) -> tuple[FoldBlocks, ...]:
        """The folds among the edits."""
        return tuple(e for e in self.edits if isinstance(e, FoldBlocks))

    @property
    def pairs(self) -> tuple[LowRank, ...]:
        """The low-rank edits."""
        return tuple(e for e in self.edits if isinstance(e, LowRank))

    @property
    def replacements(self) -> tuple[ReplaceWeight, ...]:
        """The weight replacements."""
        return tuple(e for e in self.edits if isinstance(e, ReplaceWeight))

    @property
    def quantized(self) -> tuple[QuantizeWeight, ...]:
        """The weights stored in few bits."""
        return tuple(e for e in self.edits if isinstance(e, QuantizeWeight))

    @property
    def rounds_activations(self) -> bool:
        """Whether what the plan makes computes with activations rounded to int8."""
        return any(storage.accuracy for storage in self.few_bits)

    @property
    def few_bits(self) -> tuple[FewBits, ...]:
        """How each weight is stored that is stored in few bits, the head's last; empty where none is."""
        return tuple(e.storage for e in self.edits if isinstance(e, QuantizeWeight | QuantizeHead))

    @property
    def head(self) -> QuantizeHead | None:
        """How the matrix that makes the logits is stored, where the plan says so."""
        return next((e for e in self.edits if isinstance(e, QuantizeHead)), None)

    @property
    def surviving_blocks(self) -> tuple[int, ...]:
        """Source numbers of the blocks that stay, ascending: position in the tuple is the new number."""
        gone = {b for fold in self.folds for b in fold.leaving}
        return tuple(b for b in range(self.document.source.blocks) if b not in gone)

    @classmethod
    def read(cls, folder: Path | str) -> Plan:
        """Read and check a plan folder. Raises PlanFormatError."""
        folder = Path(folder).absolute()
        path = folder / "plan.json"
        document = _read_document(path)
        arrays: Mapping[str, np.ndarray] = {}
        if document.factors is not None:
            arrays = FactorFile.open(folder / "factors.safetensors", document.factors.sha256, document.factors.bytes)
        elif (folder / "factors.safetensors").exists():
            raise PlanFormatError(folder / "factors.safetensors", "plan.json names no factors", "plan again")
        _check_arrays(path, document.edits, arrays)
        extra = folder / "diagnostics.json"
        try:
            return cls(document, arrays, strictjson.read(extra) if extra.is_file() else None)
        except strictjson.JsonError as error:
            raise PlanFormatError(extra, str(error), "delete the file: only pictures need it") from None

    def write(self, folder: Path) -> None:
        """Write into an existing empty folder: factors first, plan.json last."""
        reference = None
        if self.arrays:
            path = folder / "factors.safetensors"
            write_factors(path, self.arrays)
            reference = FactorsRef(sha256_file(path), path.stat().st_size)
        if self.diagnostics is not None:
            (folder / "diagnostics.json").write_text(strictjson.dumps(self.diagnostics), encoding="utf-8")
        fields = {name: getattr(self.document, name) for name in
                  ("source", "calibration", "steps", "predicted", "versions", "edits")}
        (folder / "plan.json").write_text(PlanDocument(**fields, factors=reference).text(), encoding="utf-8")


def _read_document(path: Path) -> PlanDocument:
    try:
        data = strictjson.read(path)
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


def _check_edits(edits: tuple[Edit, ...], blocks: int) -> None:
    """The laws between edits: blocks exist, folds are disjoint and come first, few bits last, no site is edited twice
    (but for what is then stored in few bits) or leaves."""
    folded: set[int] = set()
    leaving: set[int] = set()
    touched: set[Site] = set()
    quantized: set[Site] = set()
    heads = [edit for edit in edits if isinstance(edit, QuantizeHead)]
    if heads and (len(heads) > 1 or edits[-1] is not heads[0]):
        raise ValueError("what stores the head in few bits stands once, and last")
    for edit in edits:
        if isinstance(edit, FoldBlocks):
            if touched or quantized:
                raise ValueError("folds come before every other edit")
            if folded.intersection(edit.blocks):
                raise ValueError(f"blocks {sorted(folded.intersection(edit.blocks))} are folded twice")
            folded.update(edit.blocks)
            leaving.update(edit.leaving)
            if edit.blocks[-1] >= blocks:
                raise ValueError(f"block {edit.blocks[-1]} does not exist: the source has {blocks}")
        elif not isinstance(edit, QuantizeHead):
            if edit.site.block >= blocks or edit.site.block in leaving:
                raise ValueError(f"{edit.site}: its block does not exist or leaves")
            last = isinstance(edit, QuantizeWeight)
            if quantized and not last:
                raise ValueError(f"{edit.site}: what stores weights in few bits comes after every other edit")
            written = quantized if last else touched
            if twice := written.intersection(edit.site.parts):
                raise ValueError(f"{', '.join(map(str, sorted(twice)))}: edited twice")
            written.update(edit.site.parts)


def _named_arrays(edits: tuple[Edit, ...]) -> Iterator[tuple[str, tuple[int, int] | None]]:
    """Every array an edit names, with the shape it must have where the edit tells."""
    for edit in edits:
        if isinstance(edit, LowRank):
            yield edit.factors[0], (edit.shape[0], edit.rank)
            yield edit.factors[1], (edit.rank, edit.shape[1])
        elif isinstance(edit, ReplaceWeight):
            yield edit.tensor, None


def _check_arrays(path: Path, edits: tuple[Edit, ...], arrays: Mapping[str, np.ndarray]) -> None:
    named = list(_named_arrays(edits))  # a factor that several edits share stands here several times
    if odd := sorted({name for name, _ in named} ^ set(arrays))[:5]:
        raise PlanFormatError(path, f"edits and factors.safetensors disagree about {', '.join(odd)}", "plan again")
    shapes = arrays.shapes if isinstance(arrays, FactorFile) else {k: v.shape for k, v in arrays.items()}
    for name, shape in named:
        if shape is not None and tuple(shapes[name]) != shape:
            raise PlanFormatError(path, f"{name} is {tuple(shapes[name])}, its edit says {shape}", "plan again")
