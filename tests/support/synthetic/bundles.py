"""A dense bundle around a decoder's graph."""

from __future__ import annotations

import json
from pathlib import Path

from foldrank.bundle.bundle import Bundle, seal
from foldrank.digests import sha256_file
from foldrank.graph.view.stored import stored_weights
from synthetic.decoders import Decoder
from synthetic.genai import write_graph


def write_bundle(decoder: Decoder, folder: Path) -> Bundle:
    """A dense bundle around the decoder's graph."""
    folder.mkdir(parents=True)
    s = decoder.shape
    write_graph(decoder, folder / "model.onnx")
    config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": s.blocks, "vocab_size": s.vocab,
              "layer_types": [f"full_{i}" for i in range(s.blocks)], "eos_token_id": list(range(s.blocks))}
    (folder / "config.json").write_text(json.dumps(config))
    genai = {"model": {"decoder": {"num_hidden_layers": s.blocks, "head_size": s.head_size, "filename": "model.onnx"}}}
    (folder / "genai_config.json").write_text(json.dumps(genai))
    (folder / "tokenizer.json").write_text("{}")
    digest = sha256_file(folder / "config.json")
    source = {"name": "tiny", "path": "tiny", "config_sha256": digest, "architecture": "LlamaForCausalLM"}
    manifest = seal(folder, command="export", seed=0, source=source, exporter="genai", dtype="fp32", versions={})
    return Bundle(folder, manifest)


def sealed(bundle: Bundle, weights: dict[str, str] | None = None) -> Bundle:
    """Sealed as `export` does it, or with these digests."""
    files, digests = stored_weights(bundle.model) or ([], {})
    (bundle.path / "manifest.json").unlink(missing_ok=True)
    old = bundle.manifest
    manifest = seal(bundle.path, command="export", seed=0, source=old.source, exporter="genai", dtype="fp32",
                    versions={}, weights=(files, weights or digests))
    return Bundle(bundle.path, manifest)
