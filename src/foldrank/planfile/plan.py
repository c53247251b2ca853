"""The plan: ordered edits plus factors, on disk a folder that can be read, diffed and replayed without PyTorch.

`plan.json` is canonical JSON; `factors.safetensors` holds arrays, float32 or uint8, and is absent where no edit needs
one; `diagnostics.json`, free in form, holds what pictures are drawn from and is never needed to apply a plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from foldrank import strictjson
from foldrank.digests import sha256_file
from foldrank.edits import Edit, on_edits
from foldrank.edits.anatomy import Anatomy
from foldrank.edits.base import WeightEdit
from foldrank.edits.laws import surviving
from foldrank.edits.storage import StorageEdit
from foldrank.errors import PlanFormatError, PlanMismatch
from foldrank.planfile.document import FactorsRef, PlanDocument, read_document
from foldrank.planfile.factors import FactorFile, write_factors

E = TypeVar("E", bound=Edit)


@dataclass(frozen=True)
class Plan:
    """A plan in hand: its document, its arrays by name (float32 or uint8, read when asked for), its diagnostics.

    Not pydantic's dataclass, unlike the document: that copies a mapping into a dict, which would read every array.
    """

    document: PlanDocument
    arrays: Mapping[str, np.ndarray]
    diagnostics: dict[str, Any] | None = None

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits in order."""
        return self.document.edits

    def of(self, kind: type[E]) -> tuple[E, ...]:
        """The edits of one kind: for that kind's own rooms. Whoever tells of structure reads `anatomy`."""
        return tuple(edit for edit in self.edits if isinstance(edit, kind))

    @property
    def at_sites(self) -> tuple[WeightEdit, ...]:
        """The edits that say what stands at a site."""
        return tuple(edit for edit in self.edits if isinstance(edit, WeightEdit))

    def anatomy(self, source: Anatomy) -> Anatomy:
        """What the edits make of the source, one after the other. Raises PlanMismatch where one does not fit it."""
        try:
            return on_edits(self.edits, source)
        except ValueError as error:
            raise PlanMismatch(self.document.source.name, str(error), "plan again for this model") from None

    @property
    def surviving_blocks(self) -> tuple[int, ...]:
        """Source numbers of the blocks that stay, ascending: position in the tuple is the new number."""
        return surviving(self.edits, self.document.source.blocks)

    @property
    def rounds_activations(self) -> bool:
        """Whether what the plan makes computes with activations rounded to int8."""
        return any(edit.rounds_activations for edit in self.edits)

    @property
    def needs_quantizer(self) -> bool:
        """Whether something that makes few bits of matrices is needed to apply it."""
        return any(not edit.held for edit in self.edits if isinstance(edit, StorageEdit))

    @classmethod
    def read(cls, folder: Path | str) -> Plan:
        """Read and check a plan folder. Raises PlanFormatError."""
        folder = Path(folder).expanduser().absolute()
        path = folder / "plan.json"
        _refuse_links(folder)
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


def _refuse_links(folder: Path) -> None:
    """What a link leads to would be taken for part of the plan, and copied into the bundles made with it."""
    for name in ("plan.json", "factors.safetensors", "diagnostics.json"):
        if (folder / name).is_symlink():
            raise PlanFormatError(folder / name, "is a link", "give the plan's own files")


def _check_arrays(path: Path, edits: tuple[Edit, ...], arrays: Mapping[str, np.ndarray]) -> None:
    # a factor that several edits share stands here several times
    named = [item for edit in edits for item in edit.arrays().items()]
    if odd := sorted({name for name, _ in named} ^ set(arrays))[:5]:
        raise PlanFormatError(path, f"edits and factors.safetensors disagree about {', '.join(odd)}", "plan again")
    shapes = arrays.shapes if isinstance(arrays, FactorFile) else {k: v.shape for k, v in arrays.items()}
    wanted = frozenset[str]().union(*(edit.in_bytes() for edit in edits))
    held = arrays.in_bytes if isinstance(arrays, FactorFile) else frozenset(arrays) & wanted
    if odd := sorted(wanted ^ held)[:5]:
        raise PlanFormatError(path, f"{', '.join(odd)}: of bytes where the edit asks for floats, or the reverse",
                              "plan again")
    for name, shape in named:
        if shape is not None and tuple(shapes[name]) != shape:
            raise PlanFormatError(path, f"{name} is {tuple(shapes[name])}, its edit says {shape}", "plan again")
