"""A checkpoint: config.json, safetensors weights and a tokenizer, proved to belong together before anything loads them.

Reads headers, not weights; only `check_finite` reads the weights. Knows nothing of torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foldrank import strictjson
from foldrank.adapters import refuse_adapter
from foldrank.checkpoint_rules import config_problems, experts, remote_code, text_config
from foldrank.errors import SourceError
from foldrank.hub import snapshot
from foldrank.plausible import implausible
from foldrank.progress import SILENT, Progress, track
from foldrank.tensorfile import StoredTensor, read_header
from foldrank.verified import sha256_of

_BLOCK_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Checkpoint:
    """A folder of the Hugging Face layout. `config_sha256` is of config.json's bytes; `tensors` where each one lies."""

    path: Path
    name: str
    config: dict[str, Any]
    config_sha256: str
    tensors: dict[str, StoredTensor] = field(repr=False, default_factory=dict)

    @classmethod
    def open(cls, model: str | Path, *, offline: bool = False, trust_remote_code: bool = False) -> Checkpoint:
        """Open a folder or a hub id and prove headers, config and tokenizer. Raises SourceError."""
        path = Path(model).expanduser()
        if path.is_dir():
            path, name = path.resolve(), path.resolve().name
        elif path.exists():
            raise SourceError(model, "is a file", "give the checkpoint's folder")
        else:
            path, name = snapshot(str(model), offline=offline), str(model)
        refuse_adapter(path)
        config, digest = _read_config(path)
        if not trust_remote_code and (found := remote_code(path, config)):
            what = "asks to run code that the checkpoint brings"
            raise SourceError(found, what, "--trust-remote-code if you trust it")
        if not (path / "tokenizer.json").is_file():
            way = "make one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            raise SourceError(path, "has no tokenizer.json", way)
        tensors = _read_tensors(path)
        if problems := config_problems(config, tensors):
            raise SourceError(path, "config.json disagrees with the weights: " + " | ".join(problems[:5]),
                              "take both from the same checkpoint")
        if lies := implausible(text_config(config), tensors):
            raise SourceError(path, "no model can be this: " + " | ".join(lies[:5]),
                              "take config.json and weights as they were trained")
        return cls(path, name, config, digest, tensors)

    @property
    def architecture(self) -> str:
        """The class transformers would build, e.g. `LlamaForCausalLM`."""
        return str(self.config["architectures"][0])

    @property
    def blocks(self) -> int:
        """Number of decoder blocks."""
        config = text_config(self.config)
        return int(next(config[key] for key in _BLOCK_COUNTS if key in config))

    @property
    def weight_files(self) -> list[Path]:
        """The safetensors files, by name."""
        return sorted({tensor.path for tensor in self.tensors.values()})

    def source(self) -> dict[str, str]:
        """What a manifest says of where a bundle came from. Hashes the weights: those fine-tuned from one model share
        its config.json."""
        weights = " ".join(sha256_of(file) for file in self.weight_files)
        return {
            "name": self.name, "path": str(self.path), "config_sha256": self.config_sha256,
            "weights_sha256": hashlib.sha256(weights.encode()).hexdigest(), "architecture": self.architecture,
        }

    @property
    def text_config(self) -> dict[str, Any]:
        """The decoder's part of the config; the config itself unless the model is multimodal."""
        return text_config(self.config)


def check_dense(checkpoint: Checkpoint) -> None:
    """Refuse a mixture of experts by name: its blocks have no one up and down. Raises SourceError."""
    if count := experts(checkpoint.config):
        raise SourceError(checkpoint.path, f"{checkpoint.architecture} is a mixture of {count} experts",
                          "give a dense model: mixtures are not supported in this version")


def check_finite(checkpoint: Checkpoint, progress: Progress = SILENT) -> None:
    """Read every weight, in pieces, and refuse NaN or infinity by name. Raises SourceError."""
    bad = []
    for tensor in track(checkpoint.tensors.values(), "check weights", len(checkpoint.tensors), progress):
        for piece in _pieces(tensor):
            if not np.isfinite(piece).all():
                bad.append(f"{tensor.name} holds {'NaN' if np.isnan(piece).any() else 'infinity'}")
                break
    if bad:
        raise SourceError(checkpoint.path, " | ".join(bad[:5]), "train or fetch the checkpoint again")


def _pieces(tensor: StoredTensor) -> Iterator[np.ndarray]:
    """A float tensor in pieces of at most 16 Mi numbers, so that memory stays bounded; others have nothing to check."""
    if tensor.dtype.kind in "iub":
        return
    count = (tensor.end - tensor.start) // tensor.dtype.itemsize
    for first in range(0, count, _CHUNK):
        offset = tensor.start + first * tensor.dtype.itemsize
        piece = np.fromfile(tensor.path, tensor.dtype, min(_CHUNK, count - first), offset=offset)
        yield piece if tensor.dtype.kind == "f" else piece.astype(np.float32)


def _read_config(folder: Path) -> tuple[dict[str, Any], str]:
    path = folder / "config.json"
    if not path.is_file():
        raise SourceError(folder, "not a checkpoint: it has no config.json", "give a folder in Hugging Face's layout")
    try:
        config = strictjson.read(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, strictjson.JsonError) as error:
        raise SourceError(path, str(error), "fetch the checkpoint again") from None
    architectures = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise SourceError(path, "names no architecture", "it must be the config.json of a transformers model")
    count = next((text_config(config)[key] for key in _BLOCK_COUNTS if key in text_config(config)), None)
    if type(count) is not int or count < 1:
        raise SourceError(path, f"its number of blocks is {count!r}", f"it must have {' or '.join(_BLOCK_COUNTS)}")
    if quantised := config.get("quantization_config"):
        how = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise SourceError(path, f"the weights are quantised ({how})", "give the checkpoint from before that")
    return config, digest


def _read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Headers of the one weight file, or of every shard that the index names."""
    if (folder / _INDEX).is_file():
        return _read_shards(folder)
    if (folder / _SINGLE).is_file():
        return read_header(folder / _SINGLE)
    if pickles := sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern)):
        raise SourceError(folder / pickles[0], "pickled weights can run code and are never read",
                          "convert them where you trust them: model.save_pretrained(..., safe_serialization=True)")
    what = "holds an ONNX bundle" if (folder / "model.onnx").is_file() else "has no model.safetensors"
    raise SourceError(folder, f"not a checkpoint: it {what}", "give a folder with safetensors weights")


def _read_shards(folder: Path) -> dict[str, StoredTensor]:
    index = folder / _INDEX
    try:
        placed = strictjson.read(index)["weight_map"]
        files = sorted(set(placed.values()))
    except (OSError, strictjson.JsonError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(index, f"not a weight index: {error}", "fetch the checkpoint again") from None
    tensors: dict[str, StoredTensor] = {}
    for name in files:
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise SourceError(index, f"names {name!r}, which is not a file of this folder", "fetch the shards again")
        tensors.update(read_header(folder / name))
    if odd := sorted(set(tensors) ^ set(placed)) or [n for n, f in placed.items() if tensors[n].path.name != f]:
        raise SourceError(index, f"index and shards disagree about {', '.join(odd[:5])}", "fetch the shards again")
    return tensors
