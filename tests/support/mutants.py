"""Bundles that compute or say something else than they should, each off by one thing, with manifests that fit them.

As an attacker or a faulty exporter would leave them. Made in place on a copy of a bundle of `model builder` dialect:
biases everywhere, grouped heads, tables of RoPE. Knows onnx and JSON; shares nothing with what judges.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Change = Callable[["Files"], None]
_DTYPES = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.FLOAT16: np.float16, onnx.TensorProto.UINT8: np.uint8}


@dataclass
class Files:
    """A bundle's files, to be changed: its graph, the numbers in it, its JSON. `seal` writes what was changed."""

    folder: Path
    model: onnx.ModelProto = field(init=False)
    data: bytearray = field(init=False)
    inside: dict[str, np.ndarray[Any, Any]] = field(init=False, default_factory=dict)
    """Numbers that lie in the graph's own file."""

    def __post_init__(self) -> None:
        self.model = onnx.load(self.folder / "model.onnx", load_external_data=False)
        self.data = bytearray((self.folder / "model.onnx.data").read_bytes())

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """The numbers of an initializer, which may be written to."""
        found = next(t for t in self.model.graph.initializer if t.name == name)
        if not found.external_data:
            return self.inside.setdefault(name, onnx.numpy_helper.to_array(found).copy())
        place = {entry.key: int(entry.value) for entry in found.external_data if entry.key != "location"}
        whole = np.frombuffer(self.data, np.uint8)[place["offset"] : place["offset"] + place["length"]]
        return whole.view(_DTYPES[found.data_type]).reshape(tuple(found.dims))

    def nodes(self, op_type: str) -> list[onnx.NodeProto]:
        """In the order of the graph."""
        return [node for node in self.model.graph.node if node.op_type == op_type]

    def seal(self) -> None:
        """Write graph and numbers, and make the manifest's digests fit every file."""
        for tensor in self.model.graph.initializer:
            if tensor.name in self.inside:
                tensor.CopyFrom(onnx.numpy_helper.from_array(self.inside[tensor.name], tensor.name))
        (self.folder / "model.onnx").write_bytes(self.model.SerializeToString())
        (self.folder / "model.onnx.data").write_bytes(self.data)
        path = self.folder / "manifest.json"
        manifest = json.loads(path.read_text())
        for name in manifest["files"]:
            content = (self.folder / name).read_bytes()
            manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        if (weights := manifest.get("weights")) is not None:
            weights["files"] = {name: manifest["files"][name]["sha256"] for name in weights["files"]}
        path.write_text(json.dumps(manifest))


QUERIES, KEYS, VALUES = slice(0, 64), slice(64, 96), slice(96, 128)
_ALL = slice(None)
MATRICES: dict[str, tuple[str, slice]] = {
    "q": ("model.layers.0.attn.qkv_proj.MatMul.weight", QUERIES),
    "k": ("model.layers.1.attn.qkv_proj.MatMul.weight", KEYS),
    "v": ("model.layers.2.attn.qkv_proj.MatMul.weight", VALUES),
    "o": ("model.layers.1.attn.o_proj.MatMul.weight", _ALL),
    "gate": ("model.layers.2.mlp.gate_proj.MatMul.weight", _ALL),
    "up": ("model.layers.1.mlp.up_proj.MatMul.weight", _ALL),
    "down": ("model.layers.0.mlp.down_proj.MatMul.weight", _ALL),
    "table": ("model.embed_tokens.weight", _ALL),
    "head": ("lm_head.MatMul.weight", _ALL),
}
"""By role: an initializer and its columns."""


def scaled(files: Files, name: str, columns: slice, factor: float) -> None:
    part = files.array(name)[..., columns]
    part[...] = (part * factor).astype(part.dtype)


def element(files: Files, name: str, columns: slice) -> None:
    """The middle one goes to zero."""
    part = files.array(name)[:, columns]
    part[part.shape[0] // 2, part.shape[1] // 2] = 0


def exchanged(files: Files, first: tuple[str, Any], second: tuple[str, Any]) -> None:
    one, two = (files.array(name)[where] for name, where in (first, second))
    kept = one.copy()
    one[...], two[...] = two, kept


def keys_and_values(files: Files) -> None:
    for kind in ("MatMul.weight", "Add.bias"):
        name = f"model.layers.1.attn.qkv_proj.{kind}"
        exchanged(files, (name, (..., KEYS)), (name, (..., VALUES)))


def pasts(files: Files, first: str, second: str) -> None:
    """Two inputs of the cache in each other's place."""
    for node in files.nodes("GroupQueryAttention"):
        for slot, name in enumerate(node.input):
            node.input[slot] = {first: second, second: first}.get(name, name)


def presents(files: Files, first: str, second: str) -> None:
    for node in files.nodes("GroupQueryAttention"):
        for slot, name in enumerate(node.output):
            node.output[slot] = {first: second, second: first}.get(name, name)


def rolled(files: Files, tables: tuple[str, ...]) -> None:
    for name in tables:
        table = files.array(name)
        table[...] = np.roll(table, -1, axis=0)


def tail(files: Files, rows: int) -> None:
    for name in ("cos_cache", "sin_cache"):
        files.array(name)[-rows:] = 0


def base(files: Files, factor: float) -> None:
    """Another rope_theta."""
    cos, sin = files.array("cos_cache"), files.array("sin_cache")
    turns = (10000.0 * factor) ** (-np.arange(cos.shape[1]) / cos.shape[1])
    angles = np.arange(len(cos))[:, None] * turns
    cos[...], sin[...] = np.cos(angles), np.sin(angles)


def attribute(
    files: Files, op_type: str, name: str, change: Callable[[Any], Any], places: tuple[int, ...] = ()
) -> None:
    """An attribute of some of the nodes of a type, of all without places."""
    for place, node in enumerate(files.nodes(op_type)):
        for entry in node.attribute:
            if entry.name == name and (not places or place in places):
                kept = onnx.helper.make_attribute(name, change(onnx.helper.get_attribute_value(entry)))
                entry.CopyFrom(kept)


def told(files: Files, name: str, where: str, value: Any) -> None:
    """A value in a JSON file, by keys with dots between."""
    path = files.folder / name
    whole = inner = json.loads(path.read_text())
    *parents, last = where.split(".")
    for key in parents:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(whole))


def two_tokens(files: Files) -> None:
    """Two of the tokenizer's in each other's place: `e` and `x`, which texts have."""
    path = files.folder / "tokenizer.json"
    whole = json.loads(path.read_text())
    words = whole["model"]["vocab"]
    first, second = "e", "x"
    words[first], words[second] = words[second], words[first]
    path.write_text(json.dumps(whole))


_NORM = "model.layers.{}.{}_layernorm.weight"
_GQA = "GroupQueryAttention"
_SKIP_NORM = "SkipSimplifiedLayerNormalization"


def _numbers() -> Iterator[tuple[str, Change]]:
    for role, (name, columns) in MATRICES.items():
        yield f"{role} 1 %", partial(scaled, name=name, columns=columns, factor=1.01)
        yield f"{role} 0.1 %", partial(scaled, name=name, columns=columns, factor=1.001)
        yield f"{role}, one element", partial(element, name=name, columns=columns)
    yield "keys and values", keys_and_values
    for role, block, columns in (("q", 0, QUERIES), ("k", 1, KEYS), ("v", 2, VALUES)):
        name = f"model.layers.{block}.attn.qkv_proj.Add.bias"
        yield f"bias of {role}", partial(scaled, name=name, columns=columns, factor=0.0)
    for role, place in (("o", "2.attn.o"), ("gate", "0.mlp.gate"), ("down", "1.mlp.down")):
        name = f"model.layers.{place}_proj.Add.bias"
        yield f"bias of {role}", partial(scaled, name=name, columns=_ALL, factor=0.0)
    yield "gains of a block", partial(exchanged, first=(_NORM.format(1, "input"), ...),
                                      second=(_NORM.format(1, "post_attention"), ...))
    yield "gains of two blocks", partial(exchanged, first=(_NORM.format(0, "input"), ...),
                                         second=(_NORM.format(2, "input"), ...))
    yield "one gain 0.1 %", partial(scaled, name=_NORM.format(3, "final_norm"), columns=slice(7, 8), factor=1.001)
    yield "two columns of the head", partial(
        exchanged, first=(MATRICES["head"][0], (_ALL, 200)), second=(MATRICES["head"][0], (_ALL, 201)))
    yield "a column of the head", partial(scaled, name=MATRICES["head"][0], columns=slice(251, 252), factor=0.0)
    yield "two rows of the table", partial(
        exchanged, first=(MATRICES["table"][0], 252), second=(MATRICES["table"][0], 253))
    yield "RoPE by one", partial(rolled, tables=("cos_cache", "sin_cache"))
    yield "cosines by one", partial(rolled, tables=("cos_cache",))
    yield "RoPE without its last row", partial(tail, rows=1)
    yield "RoPE without its last rows", partial(tail, rows=40)
    yield "RoPE's base 1 %", partial(base, factor=1.01)


def _graphs() -> Iterator[tuple[str, Change]]:
    past, present = "past_key_values.{}.{}", "present.{}.{}"
    yield "pasts of two blocks", partial(pasts, first=past.format(0, "key"), second=past.format(1, "key"))
    yield "past key and value", partial(pasts, first=past.format(2, "key"), second=past.format(2, "value"))
    yield "presents of two blocks", partial(
        presents, first=present.format(1, "value"), second=present.format(2, "value"))
    for window, places in ((8, (1,)), (64, (0, 1, 2)), (120, (2,))):
        yield f"a window of {window}", partial(attribute, op_type=_GQA, name="local_window_size",
                                               change=lambda _, window=window: window, places=places)
    yield "scale of attention 1 %", partial(attribute, op_type=_GQA, name="scale", change=lambda was: was * 1.01)
    for percent, factor in (("1", 1.01), ("0.1", 1.001)):
        yield f"scale of one attention {percent} %", partial(
            attribute, op_type=_GQA, name="scale", change=lambda was, factor=factor: was * factor, places=(1,))
    yield "soft cap", partial(attribute, op_type=_GQA, name="softcap", change=lambda _: 50.0)
    yield "epsilon of all", partial(attribute, op_type=_SKIP_NORM, name="epsilon", change=lambda _: 1e-5)
    yield "epsilon of one", partial(attribute, op_type=_SKIP_NORM, name="epsilon", change=lambda _: 1e-5, places=(2,))
    yield "interleaved RoPE", partial(attribute, op_type=_GQA, name="rotary_interleaved", change=lambda _: 1)


def _words() -> Iterator[tuple[str, Change]]:
    """What the bundle says of itself."""
    genai, config = "genai_config.json", "config.json"
    yield "tokens of the tokenizer", two_tokens
    yield "tokenizer adds a token", partial(told, name="tokenizer.json", where="post_processor", value={
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a", "type_id": 0}},
                                                 {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"a": {"id": "a", "ids": [65], "tokens": ["a"]}}})
    yield "tokenizer in small letters", partial(told, name="tokenizer.json", where="normalizer",
                                                value={"type": "Lowercase"})
    for file, where, value in (
        (genai, "model.eos_token_id", 7), (config, "eos_token_id", 7), ("generation_config.json", "eos_token_id", 7),
        (genai, "model.bos_token_id", 9), (config, "bos_token_id", 9),
        (genai, "model.decoder.num_hidden_layers", 2), (config, "num_hidden_layers", 2),
        (genai, "model.vocab_size", 256), (config, "vocab_size", 256),
        (genai, "model.context_length", 64), (genai, "model.context_length", 256), (genai, "search.max_length", 4096),
        (config, "max_position_embeddings", 1024),
        (genai, "model.decoder.num_key_value_heads", 4), (genai, "model.decoder.num_attention_heads", 8),
        (genai, "model.decoder.head_size", 32), (genai, "model.decoder.hidden_size", 64),
        (config, "num_key_value_heads", 4), (config, "num_attention_heads", 8), (config, "head_dim", 8),
        (config, "hidden_size", 64), (config, "intermediate_size", 80),
        (genai, "model.decoder.inputs.past_key_names", "past_key_values.%d.value"),
        (genai, "model.decoder.outputs.present_value_names", "present.%d.v"),
        (genai, "model.decoder.outputs.logits", "scores"),
    ):
        yield f"{file}: {where} {value}", partial(told, name=file, where=where, value=value)


MUTANTS: dict[str, Change] = dict([*_numbers(), *_graphs(), *_words()])
"""By name: what is done to a bundle's files."""
