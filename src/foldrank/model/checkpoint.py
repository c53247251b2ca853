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
from foldrank.errors import SourceError
from foldrank.model import facts
from foldrank.model.adapters import refuse_adapter
from foldrank.model.checkpoint_rules import config_problems, remote_code
from foldrank.model.gguf import Gguf, gguf_of, opened
from foldrank.model.hub import model_name, snapshot
from foldrank.model.identify import refuse_others
from foldrank.model.licence import stated_licence
from foldrank.model.plausible import implausible
from foldrank.model.tensorfile import StoredTensor
from foldrank.model.weightfiles import read_tensors
from foldrank.pointers import refuse_pointer
from foldrank.progress import SILENT, Progress, track
from foldrank.verified import sha256_of

_SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Checkpoint:
    """A folder of the Hugging Face layout. `config_sha256` is of config.json's bytes; `tensors` where each one lies.
    `gguf`: the file that the folder was made of, where it is one of our cache."""

    path: Path
    name: str
    config: dict[str, Any]
    config_sha256: str
    tensors: dict[str, StoredTensor] = field(repr=False, default_factory=dict)
    gguf: Gguf | None = None

    @classmethod
    def open(
        cls, model: str | Path, *, offline: bool = False, trust_remote_code: bool = False, progress: Progress = SILENT
    ) -> Checkpoint:
        """Open a folder, a GGUF file or a hub id and prove headers, config and tokenizer. Raises SourceError;
        ProviderUnavailable where a GGUF file is not read yet and what reads it is not installed."""
        path, made = Path(model).expanduser(), None
        if (file := gguf_of(path)) is not None:
            made = opened(file, progress)
            path, name = made.folder, file.name
        elif path.is_dir():
            path, name = path.resolve(), model_name(path.resolve())
        elif path.is_file():
            raise SourceError(path, "is a file", "give the checkpoint's folder, or a GGUF file")
        else:
            path, name = snapshot(str(model), offline=offline), str(model)
        _refuse_odd(path)
        refuse_adapter(path)
        config, digest = _read_config(path)
        if not trust_remote_code and (found := remote_code(path, config)):
            what = "asks to run code that the checkpoint brings"
            raise SourceError(found, what, "--trust-remote-code if you trust it")
        refuse_others(path, config, {})
        _check_blocks(path / "config.json", config)
        if not (path / "tokenizer.json").is_file():
            way = "make one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            raise SourceError(path, "has no tokenizer.json", way)
        for file in sorted(found for suffix in _SMALL_FILES for found in path.glob(suffix)):
            refuse_pointer(file)
        tensors = read_tensors(path)
        refuse_others(path, config, tensors)
        if problems := config_problems(config, tensors):
            raise SourceError(path, "config.json disagrees with the weights: " + " | ".join(problems[:5]),
                              "take both from the same checkpoint")
        if lies := implausible(facts.text_config(config), tensors):
            raise SourceError(path, "no model can be this: " + " | ".join(lies[:5]),
                              "take config.json and weights as they were trained")
        return cls(path, name, config, digest, tensors, made)

    @property
    def architecture(self) -> str:
        """The class transformers would build, e.g. `LlamaForCausalLM`."""
        return str(self.config["architectures"][0])

    @property
    def blocks(self) -> int:
        """Number of decoder blocks."""
        return facts.blocks(self.config) or 0

    @property
    def weight_files(self) -> list[Path]:
        """The safetensors files, by name."""
        return sorted({tensor.path for tensor in self.tensors.values()})

    def source(self) -> dict[str, str]:
        """What a manifest says of where a bundle came from: never a place on a machine. Hashes the weights: those
        fine-tuned from one model share its config.json. With the licence that its card states."""
        weights = " ".join(sha256_of(file) for file in self.weight_files)
        return {
            "name": self.name, "config_sha256": self.config_sha256,
            "weights_sha256": hashlib.sha256(weights.encode()).hexdigest(), "architecture": self.architecture,
            **stated_licence(self.path), **(self.gguf.source() if self.gguf else {}),
        }

    @property
    def text_config(self) -> dict[str, Any]:
        """The decoder's part of the config; the config itself unless the model is multimodal."""
        return facts.text_config(self.config)


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


def _refuse_odd(folder: Path) -> None:
    """A FIFO or a device, which whoever opens it may wait for or never finish reading. Links lead to files in the hub's
    cache."""
    for path in sorted(folder.iterdir()):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise SourceError(path, "is neither a file nor a folder", "a checkpoint is plain files")


def _read_config(folder: Path) -> tuple[dict[str, Any], str]:
    path = folder / "config.json"
    if not path.is_file():
        raise SourceError(folder, "not a checkpoint: it has no config.json", "give a folder in Hugging Face's layout")
    try:
        config = strictjson.read_foreign(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, strictjson.JsonError) as error:
        raise SourceError(path, str(error), "fetch the checkpoint again") from None
    architectures = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise SourceError(path, "names no architecture", "it must be the config.json of a transformers model")
    return config, digest


def _check_blocks(path: Path, config: dict[str, Any]) -> None:
    text = facts.text_config(config)
    count = next((text[key] for key in facts.BLOCKS if key in text), None)
    if type(count) is not int or count < 1:
        raise SourceError(path, f"its number of blocks is {count!r}", f"it must have {' or '.join(facts.BLOCKS)}")
