"""The plan: ordered edits plus factors, on disk a folder that can be read, diffed and replayed without PyTorch.

`plan.json` is canonical JSON; `factors.safetensors` holds float32 arrays and is absent where no edit needs one;
`diagnostics.json`, free in form, holds what pictures are drawn from and is never needed to apply a plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foldrank import strictjson
from foldrank.digests import sha256_file
from foldrank.edits import Edit, FewBits, FoldBlocks, LowRank, QuantizeHead, QuantizeWeight, ReplaceWeight
from foldrank.errors import PlanFormatError
from foldrank.factors import FactorFile, write_factors
from foldrank.plandocument import FactorsRef, PlanDocument, read_document


@dataclass(frozen=True)
class Plan:
    """A plan in hand: its document, its arrays by name (float32, read when asked for), its diagnostics.

    Not pydantic's dataclass, unlike the document: that copies a mapping into a dict, which would read every array.
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
        folder = Path(folder).expanduser().absolute()
        path = folder / "plan.json"
        document = read_document(path)
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
