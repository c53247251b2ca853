"""Whether what a bundle says of its graph is so: config.json and genai_config.json against the graph, each other and
the tokenizer's files. A runtime believes them: a cache of other heads or a window beyond the tables is a crash or
another model. No weight is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from foldrank import strictjson
from foldrank.bundle.bundle import Bundle
from foldrank.bundle.genai_settings import NAME
from foldrank.edits.anatomy import Anatomy
from foldrank.errors import BundleError, GraphNotRecognized
from foldrank.graph.anatomy import read_anatomy
from foldrank.graph.dataflow.cache import axes, kv_pairs
from foldrank.graph.precision import epsilons, rotary_rows
from foldrank.graph.view.skip_norms import read_apart
from foldrank.model import facts
from foldrank.model.checkpoint import Checkpoint
from foldrank.model.token_ids import TOKEN_IDS, token_ids
from foldrank.verified import sha256_of

_SHOWN = 5
Told = tuple[str, Any, Any]
"""A key of a config, what it says, and what is so; None where one of them is not known."""


def refuse_disagreement(bundle: Bundle, graph: ir.Model) -> None:
    """Raise BundleError with what the configs say otherwise than the graph; GraphNotRecognized where it has no cache.
    Its norms may be taken apart."""
    found = [*_genai(bundle, graph), *_config(bundle, graph)]
    odd = [f"{name}: {key} is {told}, {so} is so" for name, told_so in found for key, told, so in told_so
           if None not in (told, so) and told != so]
    if odd:
        raise BundleError(bundle.path, " | ".join(odd[:_SHOWN]), "export or apply again")


def _genai(bundle: Bundle, graph: ir.Model) -> Iterator[tuple[str, list[Told]]]:
    """What onnxruntime-genai is told."""
    held, config = bundle.json(NAME), bundle.json("config.json")
    if not isinstance(held, dict):
        return
    model = held.get("model") or {}
    decoder, search = model.get("decoder") or {}, held.get("search") or {}
    pairs, context = kv_pairs(graph.graph, graph.graph.name or "graph"), model.get("context_length")
    _, kv_heads, _, head_size = axes(pairs[0].past[0])
    names = {**{name: name for name in (str(port.name) for port in graph.graph.inputs) if "past" not in name},
             "past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"}
    given = {"logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}
    asked, made = decoder.get("inputs"), decoder.get("outputs")
    yield NAME, [
        ("model.decoder.num_hidden_layers", decoder.get("num_hidden_layers"), len(pairs)),
        ("model.decoder.num_key_value_heads", decoder.get("num_key_value_heads"), _number(kv_heads)),
        ("model.decoder.head_size", decoder.get("head_size"), _number(head_size)),
        ("model.decoder.num_attention_heads", decoder.get("num_attention_heads"), facts.heads(config)),
        ("model.decoder.hidden_size", decoder.get("hidden_size"), facts.width(config)),
        ("model.decoder.inputs", asked, asked and {key: names.get(key, "nothing") for key in asked}),
        ("model.decoder.outputs", made, made and {key: given.get(key, "nothing") for key in made}),
        ("model.vocab_size", model.get("vocab_size"), _words(graph)),
        ("model.context_length", context, facts.context_length(config)),
        ("search.max_length", _above(search.get("max_length"), context), "at most model.context_length"),
    ]
    ids = token_ids(bundle.path, config) if isinstance(config, dict) else {}
    yield NAME, [(f"model.{key}", model.get(key), ids.get(key)) for key in TOKEN_IDS]


def refuse_other_files(bundle: Bundle, checkpoint: Checkpoint) -> None:
    """Raise BundleError where configs or tokenizer are not those of the checkpoint that the bundle was made from, but
    for what an edit or an export changes: how many blocks there are, how wide their MLPs, whether the head is the
    table."""
    odd, free = [], {*facts.BLOCKS, facts.mlp_key(checkpoint.config), "tie_word_embeddings"}
    for name in ("config.json", "generation_config.json"):
        told, path = bundle.json(name), checkpoint.path / name
        source = strictjson.read_foreign(path) if path.is_file() else {}
        odd += [f"{name}: {key} is {value}, the checkpoint's {source[key]}" for key, value in _plain(told).items()
                if key in source and key not in free and source[key] != value]
    name = "tokenizer.json"
    entry = bundle.manifest.files.get(name)
    if entry is None or entry.sha256 != sha256_of(checkpoint.path / name):
        odd.append(f"{name} is not the checkpoint's")
    if odd:
        raise BundleError(bundle.path, " | ".join(odd[:_SHOWN]), "export or apply again")


def _plain(config: Any) -> dict[str, Any]:
    """Keys whose values are no list by blocks and no part of their own."""
    return {key: value for key, value in config.items() if isinstance(value, str | int | float)
            or key in TOKEN_IDS} if isinstance(config, dict) else {}


def _config(bundle: Bundle, graph: ir.Model) -> Iterator[tuple[str, list[Told]]]:
    """What everybody else is told."""
    config, name = bundle.json("config.json"), "config.json"
    tables, context = rotary_rows(graph), facts.context_length(config)
    yield name, [
        ("vocab_size", facts.vocabulary(config), _words(graph)),
        ("epsilon", facts.epsilon(config), next((eps for eps in epsilons(graph) if not _near(eps, config)), None)),
        ("context", _above(context, tables), f"at most {tables}, the rows of RoPE's tables"),
    ]
    try:
        anatomy = read_anatomy(read_apart(graph))
    except GraphNotRecognized:
        return
    heads, repeated = facts.kv_heads(config), anatomy.kv_heads
    yield name, [
        ("blocks", facts.blocks(config), len(anatomy.blocks)),
        ("heads", facts.heads(config), anatomy.heads),
        ("heads of the cache", heads, repeated if heads is None or repeated % heads else heads),
        ("head size", facts.head_size(config), anatomy.head_size),
        ("hidden width", facts.width(config), _width(anatomy)),
        ("MLP width", facts.mlp_width(config), anatomy.mlp_width),
    ]


def _words(graph: ir.Model) -> int | None:
    """The vocabulary that the logits are of."""
    logits = next((value for value in graph.graph.outputs if value.name == "logits"), None)
    return None if logits is None or not (shape := axes(logits)) else _number(shape[-1])


def _width(anatomy: Anatomy) -> int | None:
    """Of the stream: inputs of what reads it."""
    widths = {block.matrices[role].shape[0]
              for block in anatomy.blocks for role in ("q", "up") if role in block.matrices}
    return widths.pop() if len(widths) == 1 else None


def _near(epsilon: float, config: Any) -> bool:
    """Whether an epsilon, a float32, is the config's."""
    told = facts.epsilon(config)
    return told is not None and abs(epsilon - told) <= 1e-6 * told


def _above(told: Any, most: Any) -> int | None:
    """What is told where it is above the most, else None."""
    return told if isinstance(told, int) and isinstance(most, int) and told > most else None


def _number(axis: int | str | None) -> int | None:
    return axis if isinstance(axis, int) else None
