"""Where a checkpoint's weights lie: one safetensors file, or shards and their index. Reads headers, not weights."""

from __future__ import annotations

from pathlib import Path

from foldrank import strictjson
from foldrank.errors import CheckpointRefused, SourceError
from foldrank.model.tensorfile import StoredTensor, read_header

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_MISTRALS = ("tok_embeddings.weight", "layers.0.attention.wq.weight")
"""Names in the consolidated file that Mistral and Meta write beside, or in the place of, transformers' own."""


def read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Headers of the one weight file, whatever its name, or of every shard that the index names. Raises SourceError."""
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    if (folder / SINGLE).is_file():
        return read_header(folder / SINGLE)
    if others := sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("adapter_")):
        return _read_other(folder, others)
    if pickles := sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern)):
        way = "convert them where you trust them: model.save_pretrained(..., safe_serialization=True)"
        raise CheckpointRefused(folder / pickles[0], "pickled weights can run code and are never read", way)
    what = "holds an ONNX bundle" if (folder / "model.onnx").is_file() else "has no model.safetensors"
    raise SourceError(folder, f"not a checkpoint: it {what}", "give a folder with safetensors weights")


def _read_shards(folder: Path) -> dict[str, StoredTensor]:
    index = folder / INDEX
    try:
        placed = strictjson.read(index)["weight_map"]
        files = sorted(set(placed.values()))
    except (OSError, strictjson.JsonError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(index, f"not a weight index: {error}", "fetch the checkpoint again") from None
    tensors: dict[str, StoredTensor] = {}
    for name in files:
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            what = f"names {name!r}, which is not a file of this folder"
            raise CheckpointRefused(index, what, "fetch the shards again")
        tensors.update(read_header(folder / name))
    if odd := sorted(set(tensors) ^ set(placed)) or [n for n, f in placed.items() if tensors[n].path.name != f]:
        what = f"index and shards disagree about {', '.join(odd[:5])}"
        raise CheckpointRefused(index, what, "fetch the shards again")
    return tensors


def _read_other(folder: Path, files: list[Path]) -> dict[str, StoredTensor]:
    """The only file there is, under another name, where it holds transformers' names."""
    names = ", ".join(path.name for path in files[:3])
    if len(files) > 1:
        raise SourceError(folder, f"has {len(files)} safetensors files ({names}) and no {INDEX}",
                          "fetch the index too, or keep only the model's own file, as model.safetensors")
    tensors = read_header(files[0])
    if odd := next((name for name in _MISTRALS if name in tensors), None):
        raise SourceError(files[0], f"holds the names of Mistral's and Meta's own code ({odd}), not transformers'",
                          "give the checkpoint in transformers' form (model.safetensors)")
    return tensors
