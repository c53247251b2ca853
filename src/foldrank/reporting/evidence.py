"""The JSON files of a bundle folder, read once. Everything the report says comes from here.

Also reads a folder that is still being built (no manifest yet), for the model card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldrank import facts, strictjson
from foldrank.errors import BundleError
from foldrank.reporting import lookup


@dataclass(frozen=True)
class Evidence:
    """Each file's JSON, or None where the file is not there. `sizes` are bytes by relative POSIX path."""

    sizes: Mapping[str, int]
    manifest: Any = None
    config: Any = None
    genai_config: Any = None
    plan: Any = None
    diagnostics: Any = None
    validate: Any = None
    bench: Any = None
    receipts: Any = None

    @classmethod
    def read(cls, folder: Path) -> Evidence:
        """Read what is there. Raises BundleError where a file is not JSON."""
        found = {name: _json(folder / path) for name, path in _FILES.items()}
        sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
        return cls(sizes, **found)

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
        """Blocks of this bundle's decoder; where no config.json counts them, its KV pairs."""
        counted = (lookup.integer(self.config, key) for key in ("num_hidden_layers", "n_layer"))
        genai = lookup.integer(self.genai_config, "model", "decoder", "num_hidden_layers")
        return next((count for count in counted if count is not None), genai)

    @property
    def source_blocks(self) -> int | None:
        """Blocks of the source checkpoint; those of the bundle where no plan was applied."""
        return lookup.integer(self.plan, "source", "blocks") if self.plan is not None else self.blocks

    @property
    def cache_shape(self) -> tuple[int, int] | None:
        """Key/value heads and head size, as genai_config.json says, else config.json."""
        decoder = lookup.at(self.genai_config, "model", "decoder")
        heads = lookup.integer(decoder, "num_key_value_heads") or lookup.integer(self.config, "num_key_value_heads")
        queries = facts.heads(self.config)
        width = facts.width(self.config)
        head_size = lookup.integer(decoder, "head_size") or lookup.integer(self.config, "head_dim")
        if head_size is None and width and queries:
            head_size = width // queries
        heads = heads or queries
        return (heads, head_size) if heads and head_size else None

    @property
    def folds(self) -> list[Mapping[str, Any]]:
        """The plan's `fold_blocks` edits."""
        return [edit for edit in lookup.rows(self.plan, "edits") if edit.get("kind") == "fold_blocks"]

    @property
    def dropped(self) -> dict[str, list[int]]:
        """Blocks that lost their attention, and those that lost their MLP, by source number."""
        edits = [edit for edit in lookup.rows(self.plan, "edits") if edit.get("kind") == "drop_branch"]
        return {name: [block for edit in edits if edit.get("branch") == branch
                       and (block := lookup.integer(edit, "block")) is not None]
                for branch, name in (("attention", "Attention"), ("mlp", "MLP"))}

    @property
    def quantized(self) -> list[Mapping[str, Any]]:
        """The plan's `quantize_weight` edits."""
        return [edit for edit in lookup.rows(self.plan, "edits") if edit.get("kind") == "quantize_weight"]

    @property
    def head(self) -> Mapping[str, Any] | None:
        """The plan's `quantize_head` edit."""
        return next((e for e in lookup.rows(self.plan, "edits") if e.get("kind") == "quantize_head"), None)

    @property
    def stored_as(self) -> str:
        """In what the quantized weights are stored, in words; empty where none is."""
        ways = {f"{lookup.integer(e, 'storage', 'bits')} bits in blocks of {lookup.integer(e, 'storage', 'block_size')}"
                for e in self.quantized}
        return " or ".join(sorted(ways))

    @property
    def pairs(self) -> list[Mapping[str, Any]]:
        """The plan's `low_rank` edits."""
        return [edit for edit in lookup.rows(self.plan, "edits") if edit.get("kind") == "low_rank"]

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
    "validate": "reports/validate.json",
    "bench": "reports/bench.json",
    "receipts": "reports/receipts.json",
}


def _json(path: Path) -> Any:
    try:
        return strictjson.read(path)
    except FileNotFoundError:
        return None
    except (OSError, strictjson.JsonError) as error:
        raise BundleError(path, str(error), "make the bundle or its report again") from None
