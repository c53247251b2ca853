"""The process that dequantises one GGUF file: `python -m foldrank.model.gguf_child FILE FOLDER`.

Apart from us, so that its memory goes back, and so that a file that ends the library ends no more than this.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldrank.model.gguf_header import Header, read_header
from foldrank.model.gguf_rope import scaled

_HALF_MOST = 65504.0
_FULL = frozenset({"F32", "BF16"})
_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r"})
"""Pre-tokenizers that split off every digit, and are GPT-2's otherwise (llama.cpp's src/llama-vocab.cpp)."""

_GPT2 = frozenset({"gpt-2", "gpt2", "default"})


def convert(file: Path, folder: Path) -> None:
    """Write config, weights and tokenizer into an empty folder, as transformers understands the file. Raises ValueError
    where it does not know how the tokenizer splits text, and what transformers raises."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    header = read_header(file)
    digits, positions = splits_digits(header), scaled(file, header)
    with tempfile.TemporaryDirectory() as alone:
        (Path(alone) / "model.gguf").symlink_to(file.resolve())  # so that nothing that lies beside it is read
        given = {"gguf_file": "model.gguf", "local_files_only": True}
        read: Any = AutoModelForCausalLM.from_pretrained(alone, dtype=torch.float32, **given)
        AutoTokenizer.from_pretrained(alone, **given).save_pretrained(folder)
    config, state = read.config, read.state_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        if hasattr(config, key):
            delattr(config, key)
    config.dtype = torch.float32 if needs_full(header, state) else torch.float16
    with torch.device("meta"):
        plain = type(read)(config)
    plain.load_state_dict({name: tensor.to(config.dtype) for name, tensor in state.items()}, assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder, max_shard_size="1TB")
    if digits:
        _split_digits(folder / "tokenizer.json")
    _settle(folder / "config.json", positions)


def needs_full(header: Header, state: Mapping[str, Any]) -> bool:
    """Whether fp16 would lose what the file holds: matrices of more bits, or numbers beyond its range."""
    return any(tensor.type in _FULL and len(tensor.shape) > 1 for tensor in header.tensors.values()) or any(
        float(tensor.abs().max()) > _HALF_MOST for tensor in state.values())


def splits_digits(header: Header) -> bool:
    """Whether digits must be split off here, since transformers does not. Raises ValueError where it knows nothing of
    how this tokenizer splits text: it would fall back to GPT-2's way."""
    split = header.values.get("tokenizer.ggml.pre", "default")
    if header.values.get("tokenizer.ggml.model") != "gpt2" or split in _GPT2:
        return False
    known: Mapping[str, str] = {}
    try:
        from transformers.integrations.gguf import gguf_tokenizer_mapping

        known = gguf_tokenizer_mapping.GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # an older release
        pass
    if split in known:
        return False
    if split not in _DIGITS:
        raise ValueError(f"how its tokenizer ({split}) splits text is not known")
    return True


def _split_digits(path: Path) -> None:
    """Every digit a piece of its own, before GPT-2's splits."""
    data = json.loads(path.read_text(encoding="utf-8"))
    digits = {"type": "Digits", "individual_digits": True}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, data["pre_tokenizer"]]}
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2), encoding="utf-8")


def _settle(path: Path, positions: Mapping[str, Any] | None) -> None:
    """The same file whichever release wrote it, since bundles are told apart by its digest; with what transformers did
    not read of the positions."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("transformers_version", None)
    if positions is not None:
        config["rope_parameters" if "rope_parameters" in config else "rope_scaling"] = dict(positions)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
