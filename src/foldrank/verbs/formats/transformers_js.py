"""The layout that transformers.js loads: onnx/model.onnx with its data beside it, config.json with an entry of its own.

As its `getModelDataFiles` and `selectDtype` (4.3) read it. One graph lies in the folder, so its file carries no suffix,
which transformers.js calls dtype fp32 whatever the weights are; without that entry a browser would ask for 8 bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldrank import strictjson
from foldrank.bundle.bundle import Bundle, FileEntry
from foldrank.errors import BundleError, ExportError
from foldrank.graph.safe.load import load_model
from foldrank.passes.shards import write_shards
from foldrank.progress import SILENT, Progress
from foldrank.reporting.card import packaged_card
from foldrank.reporting.snippets import transformers_js
from foldrank.verbs.formats import copied

SHARD_BYTES = 2_000_000_000
"""A browser holds no buffer of 2 GiB."""
_ENTRY = "transformers.js_config"


def write(bundle: Bundle, folder: Path, progress: Progress) -> dict[str, FileEntry]:
    """Fill an empty folder. Raises ExportError (bf16, which no ONNX Runtime of JavaScript has), BundleError (it has no
    config.json), UnsafeModel."""
    if bundle.manifest.dtype == "bf16":
        raise ExportError(bundle.path, "its weights are bf16, which ONNX Runtime for JavaScript does not know",
                          "export with --dtype fp16 or fp32")
    (folder / "onnx").mkdir()
    model = load_model(bundle.model)
    written = write_shards(model, folder / "onnx" / "model.onnx", most_bytes=SHARD_BYTES, progress=progress)
    known = {f"onnx/{name}": entry for name, entry in written.items()}
    known |= copied.copy(bundle, copied.beside(bundle), folder, SILENT)
    config = bundle.json("config.json")
    if not isinstance(config, dict):
        raise BundleError(bundle.path, "has no config.json, by which transformers.js knows a model", "export again")
    config = _config(config, shards=len(written) - 1)
    (folder / "config.json").write_text(strictjson.dumps(config), encoding="utf-8")
    card = packaged_card(bundle.path, library="transformers.js", program=("javascript", transformers_js()))
    (folder / "README.md").write_text(card, encoding="utf-8")
    return known


def _config(config: dict[str, Any], *, shards: int) -> dict[str, Any]:
    """config.json with transformers.js' own entry. `multi_query` is left out: transformers.js takes it for a cache of
    one tensor for key and value (GPT-BigCode's), which no bundle has."""
    kept = {key: value for key, value in config.items() if key != "multi_query"}
    return {**kept, _ENTRY: {"dtype": "fp32", "use_external_data_format": {"model.onnx": shards}}}
