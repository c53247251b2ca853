"""The JSON files of a bundle folder, read once. Everything the report says comes from here.

Also reads a folder that is still being built (no manifest yet), for the model card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from foldrank import strictjson
from foldrank.edits import Edit, parse
from foldrank.edits.base import Phase
from foldrank.errors import BundleError
from foldrank.model import facts
from foldrank.reporting import lookup
from foldrank.reports import bench, receipts, validate
from foldrank.reports.bench import Bench
from foldrank.reports.form import Form
from foldrank.reports.receipts import Receipts
from foldrank.reports.validate import Validation


@dataclass(frozen=True)
class Evidence:
    """Each file's JSON, or None where the file is not there. `sizes` are bytes by relative POSIX path. A report that
    does not fit its schema is None too, and `misfits` says why, by the report's name."""

    sizes: Mapping[str, int]
    manifest: Any = None
    config: Any = None
    genai_config: Any = None
    plan: Any = None
    diagnostics: Any = None
    validate: Validation | None = None
    bench: Bench | None = None
    receipts: Receipts | None = None
    misfits: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Evidence:
        """Read what is there. Raises BundleError where a file is not JSON."""
        found = {name: _json(folder / path) for name, path in _FILES.items()}
        misfits: dict[str, str] = {}
        for name, form in _REPORTS.items():
            if (data := _json(folder / form.file)) is not None:
                try:
                    found[name] = form.parse(data)
                except BundleError as error:
                    misfits[name] = str(error)
        sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
        return cls(sizes, misfits=misfits, **found)

    @property
    def name(self) -> str | None:
        """Name of the source checkpoint."""
        return lookup.text(self.manifest, "source", "name") or lookup.text(self.plan, "source", "name")

    @property
    def architecture(self) -> str | None:
        """The source's architecture, as its config.json names it."""
        named = lookup.text(self.manifest, "source", "architecture") or lookup.text(self.plan, "source", "architecture")
        listed = lookup.at(self.config, "architectures")
        return named or (str(listed[0]) if isinstance(listed, list) and listed else None)

    @property
    def blocks(self) -> int | None:
        """Blocks of this bundle's decoder; genai_config.json counts KV pairs."""
        told = facts.blocks(self.config)
        return told if told is not None else lookup.integer(self.genai_config, "model", "decoder", "num_hidden_layers")

    @property
    def source_blocks(self) -> int | None:
        """Blocks of the source checkpoint; those of the bundle where no plan was applied."""
        return lookup.integer(self.plan, "source", "blocks") if self.plan is not None else self.blocks

    @property
    def cache_shape(self) -> tuple[int, int] | None:
        """Key/value heads and head size, as genai_config.json says, else config.json."""
        decoder = lookup.at(self.genai_config, "model", "decoder")
        heads = lookup.integer(decoder, "num_key_value_heads") or facts.kv_heads(self.config)
        head_size = lookup.integer(decoder, "head_size") or facts.head_size(self.config)
        return (heads, head_size) if heads and head_size else None

    @cached_property
    def edits(self) -> tuple[Edit, ...]:
        """The plan's edits; none where they are of another version's kinds."""
        try:
            return parse(lookup.rows(self.plan, "edits"))
        except ValueError:
            return ()

    @property
    def stored(self) -> tuple[Edit, ...]:
        """Those of them that store what is there in another way."""
        return tuple(edit for edit in self.edits if edit.phase is Phase.STORAGE)

    @property
    def steps(self) -> list[Mapping[str, Any]]:
        """The plan's steps."""
        return lookup.rows(self.plan, "steps")

    @property
    def kept(self) -> float | None:
        """Share of the source's decoder-block weights that remains: the product of the steps' `keep`."""
        share = 1.0
        for step in self.steps:
            reached = lookup.number(step, "keep", "reached")
            if reached is None:
                return None
            share *= reached
        return share if self.plan is not None else None

    @property
    def model_bytes(self) -> int | None:
        """Graph and weights as stored."""
        found = [size for name, size in self.sizes.items() if name in ("model.onnx", "model.onnx.data")]
        return sum(found) or None


_FILES = {
    "manifest": "manifest.json",
    "config": "config.json",
    "genai_config": "genai_config.json",
    "plan": "plan/plan.json",
    "diagnostics": "plan/diagnostics.json",
}
_REPORTS: dict[str, Form[Any]] = {"validate": validate.FORM, "bench": bench.FORM, "receipts": receipts.FORM}


def _json(path: Path) -> Any:
    try:
        return strictjson.read(path)
    except FileNotFoundError:
        return None
    except (OSError, strictjson.JsonError) as error:
        raise BundleError(path, str(error), "make the bundle or its report again") from None
