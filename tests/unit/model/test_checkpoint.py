"""A checkpoint is proved before anything loads it: one clear SourceError for each way in which it is not one."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from foldrank.errors import SourceError
from foldrank.model.checkpoint import Checkpoint, check_finite

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 3,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 12, "vocab_size": 16,
    "tie_word_embeddings": True,
}
SHAPES = {"self_attn.q_proj": (8, 8), "self_attn.k_proj": (4, 8), "self_attn.v_proj": (4, 8),
          "self_attn.o_proj": (8, 8), "mlp.gate_proj": (12, 8), "mlp.up_proj": (12, 8), "mlp.down_proj": (8, 12),
          "input_layernorm": (8,)}


def weights(blocks: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    made = {f"model.layers.{b}.{name}.weight": random.normal(size=shape).astype(np.float16)
            for b in range(blocks) for name, shape in SHAPES.items()}
    return {"model.embed_tokens.weight": random.normal(size=(16, 8)).astype(np.float16), **made}


def write(folder: Path, config: dict[str, Any] | None = None, tensors: dict[str, np.ndarray] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (folder / "tokenizer.json").write_text("{}")
    save_file(weights() if tensors is None else tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "model")


def test_a_sound_checkpoint_opens_and_names_itself(folder: Path) -> None:
    found = Checkpoint.open(folder)
    assert (found.name, found.architecture, found.blocks) == ("model", "LlamaForCausalLM", 3)
    assert set(found.tensors) == set(weights())
    check_finite(found)


def test_models_fine_tuned_from_one_share_the_config_and_not_the_weights(folder: Path, tmp_path: Path) -> None:
    tuned = write(tmp_path / "tuned", tensors={name: -tensor for name, tensor in weights().items()})
    again = write(tmp_path / "again")
    source, other, same = (Checkpoint.open(path).source() for path in (folder, tuned, again))
    assert source["config_sha256"] == other["config_sha256"]
    assert source["weights_sha256"] == same["weights_sha256"] != other["weights_sha256"]


def test_the_header_places_every_tensor_where_its_bytes_are(folder: Path) -> None:
    for name, wanted in weights().items():
        place = Checkpoint.open(folder).tensors[name]
        data = place.path.read_bytes()[place.start : place.end]
        assert np.array_equal(np.frombuffer(data, place.dtype).reshape(place.shape), wanted)


def test_real_checkpoints_of_other_families_open(tiny_models: Path) -> None:
    for path in sorted((tiny_models).glob("*/checkpoint")):
        check_finite(Checkpoint.open(path))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_a_single_weight_that_is_not_finite_is_named(tmp_path: Path, value: float, dtype: Any) -> None:
    tensors = {k: v.astype(dtype) for k, v in weights().items()}
    tensors["model.layers.1.mlp.down_proj.weight"][7, 11] = value
    checkpoint = Checkpoint.open(write(tmp_path / "model", tensors=tensors))
    with pytest.raises(SourceError, match=r"layers\.1\.mlp\.down_proj\.weight holds (NaN|infinity)"):
        check_finite(checkpoint)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def header_says(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1, -1000])
def test_truncated_weights_are_refused(folder: Path, size: int) -> None:
    cut(folder / "model.safetensors", size if size >= 0 else (folder / "model.safetensors").stat().st_size + size)
    with pytest.raises(SourceError, match=r"model\.safetensors"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("change", [
    lambda h: h["model.embed_tokens.weight"].update(dtype="F3"),
    lambda h: h["model.embed_tokens.weight"].update(shape=[16, 9]),
    lambda h: h["model.embed_tokens.weight"].update(shape=[-16, -8]),
    lambda h: h["model.embed_tokens.weight"].update(data_offsets=[0, 10**15]),
    lambda h: h["model.embed_tokens.weight"].pop("data_offsets"),
    lambda h: h.update({"twin": h["model.embed_tokens.weight"]}),
])
def test_a_header_that_lies_is_refused(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    header_says(folder / "model.safetensors", change)
    with pytest.raises(SourceError, match=r"header|overlaps"):
        Checkpoint.open(folder)


def without(name: str) -> dict[str, np.ndarray]:
    return {k: v for k, v in weights().items() if k != name}


@pytest.mark.parametrize(("config", "tensors", "says"), [
    ({"num_hidden_layers": 4}, None, "4 blocks, the weights of 3"),
    ({"num_hidden_layers": 2}, None, "2 blocks, the weights of 3"),
    ({"vocab_size": 17}, None, "vocab_size"),
    ({"hidden_size": 10}, None, "hidden_size"),
    ({"intermediate_size": 13}, None, "gate_proj.weight is"),
    ({"num_key_value_heads": 2}, None, "k_proj.weight is"),
    ({"tie_word_embeddings": False}, None, "lm_head"),
    ({"layer_types": ["full_attention"] * 2}, None, "layer_types"),
    ({}, without("model.layers.1.mlp.down_proj.weight"), "block 1 has no mlp.down_proj.weight"),
    ({}, without("model.layers.0.input_layernorm.weight"), "block 0 has no input_layernorm.weight"),
    ({}, without("model.embed_tokens.weight"), "embedding"),
    ({"quantization_config": {"quant_method": "gptq"}}, None, "gptq"),
    ({"architectures": []}, None, "architecture"),
    ({"num_hidden_layers": "3"}, None, "number of blocks"),
])
def test_a_config_that_disagrees_with_the_weights_is_refused(
    tmp_path: Path, config: dict[str, Any], tensors: dict[str, np.ndarray] | None, says: str
) -> None:
    with pytest.raises(SourceError, match=says):
        Checkpoint.open(write(tmp_path / "model", {**CONFIG, **config}, tensors))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickled_weights_are_refused_with_the_way_out(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(SourceError, match=r"never read.*safe_serialization"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("asks", [
    {"auto_map": {"AutoConfig": "code.Config"}}, {"trust_remote_code": True},
    {"more": {"nested": [{"trust_remote_code": True}]}},
])
def test_code_of_the_checkpoint_is_refused_unless_trusted(tmp_path: Path, asks: dict[str, Any]) -> None:
    folder = write(tmp_path / "model", {**CONFIG, **asks})
    with pytest.raises(SourceError, match="--trust-remote-code"):
        Checkpoint.open(folder)
    assert Checkpoint.open(folder, trust_remote_code=True).blocks == 3


def test_a_tokenizer_that_brings_code_is_refused(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["code.Tokenizer", null]}}')
    with pytest.raises(SourceError, match=r"tokenizer_config\.json"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 10_000, "\xff"])
def test_a_config_that_is_not_plain_json_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SourceError, match=r"config\.json"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(("missing", "says"), [
    ("config.json", "no config.json"), ("tokenizer.json", "no tokenizer.json"), ("model.safetensors", "no model.safe"),
])
def test_a_missing_file_is_named(folder: Path, missing: str, says: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(SourceError, match=says):
        Checkpoint.open(folder)


@pytest.mark.parametrize("model", ["/no/such/folder", "owner/of/nothing", "owner/nothing-here", "nothing-here"])
def test_what_is_neither_folder_nor_cached_is_refused_offline(model: str) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        Checkpoint.open(model, offline=True)


def shard(folder: Path) -> Path:
    """The same weights in two files with an index."""
    (folder / "model.safetensors").unlink()
    placed = {}
    for number, names in enumerate(np.array_split(sorted(weights()), 2)):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({n: weights()[n] for n in names}, folder / file)
        placed |= dict.fromkeys(map(str, names), file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return index


def test_shards_are_read_through_their_index(folder: Path) -> None:
    whole = Checkpoint.open(folder).tensors
    shard(folder)
    assert {n: t.shape for n, t in Checkpoint.open(folder).tensors.items()} == {n: t.shape for n, t in whole.items()}


@pytest.mark.parametrize("place", ["../model.safetensors", "/etc/passwd", "missing.safetensors", 7])
def test_an_index_that_leads_out_of_the_folder_or_nowhere_is_refused(folder: Path, place: object) -> None:
    index = shard(folder)
    data = json.loads(index.read_text())
    data["weight_map"]["model.embed_tokens.weight"] = place
    index.write_text(json.dumps(data))
    with pytest.raises(SourceError, match="index"):
        Checkpoint.open(folder)


def test_an_index_that_forgets_a_tensor_is_refused(folder: Path) -> None:
    index = shard(folder)
    data = json.loads(index.read_text())
    del data["weight_map"]["model.embed_tokens.weight"]
    index.write_text(json.dumps(data))
    with pytest.raises(SourceError, match=r"disagree about model\.embed_tokens\.weight"):
        Checkpoint.open(folder)
