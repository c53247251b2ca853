"""Which GGUF files are taken as checkpoints: every setting and tensor in them must be one that transformers reads.

transformers passes over what it does not know (a scaled rotary embedding, biases, soft caps), and the model would be
another one. Knows headers. Knows nothing of transformers but which keys it reads (its integrations/ggml.py, 5.23).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from foldrank.model.gguf_header import Header, Tensor, Value
from foldrank.model.gguf_rope import NAME as SCALED

_NEEDED = ("context_length", "block_count", "embedding_length", "feed_forward_length", "attention.head_count")
_RMS = ("attention.head_count_kv", "attention.layer_norm_rms_epsilon")
_SIZES = ("attention.key_length", "attention.value_length", "rope.dimension_count")
"""Each of them is the size of a head."""

_WITHOUT_EFFECT: Mapping[str, Value] = {"rope.scaling.type": "none", "expert_count": 0, "expert_used_count": 0}
_ATTENTION = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output")
_GATED = (*_ATTENTION, "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
_AROUND = (*_GATED, "post_attention_norm", "post_ffw_norm")


def _weights(*names: str) -> frozenset[str]:
    return frozenset(f"{name}.weight" for name in names)


@dataclass(frozen=True)
class Architecture:
    """What one of llama.cpp's architectures must hold: tensors of every block, keys, and the values that transformers
    takes for granted. `head`: the size of a head that it takes, where the file's is not read."""

    block: frozenset[str]
    needed: tuple[str, ...] = (*_NEEDED, *_RMS)
    also: frozenset[str] = frozenset({"rope.freq_base", "vocab_size"})
    granted: Mapping[str, Value] = field(default_factory=dict)
    head: int | None = None
    top: frozenset[str] = _weights("token_embd", "output_norm")
    optional: frozenset[str] = _weights("output")


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(_weights(*_GATED), optional=_weights("output", "rope_freqs")),
    "qwen2": Architecture(_weights(*_GATED) | {f"attn_{role}.bias" for role in "qkv"}),
    "qwen3": Architecture(_weights(*_GATED, "attn_q_norm", "attn_k_norm"), head=128),
    "gemma2": Architecture(
        _weights(*_AROUND), needed=(*_NEEDED, *_RMS, "attention.key_length", "attention.sliding_window"), head=256,
        granted={"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
    "gemma3": Architecture(
        _weights(*_AROUND, "attn_q_norm", "attn_k_norm"), head=256,
        needed=(*_NEEDED, *_RMS, "attention.key_length", "attention.sliding_window", "rope.freq_base")),
    "gpt2": Architecture(
        frozenset(f"{name}.{part}" for part in ("weight", "bias")
                  for name in ("attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down")),
        needed=(*_NEEDED, "attention.layer_norm_epsilon"), also=frozenset({"vocab_size"}),
        granted={"context_length": 1024},
        top=_weights("token_embd", "position_embd", "output_norm") | {"output_norm.bias"}),
}
"""By the name in `general.architecture`. Llama's is also that of Mistral, SmolLM2 and others of that form."""


def reasons(header: Header) -> Iterator[str]:
    """Why a file is not taken; nothing where it is."""
    name = header.values.get("general.architecture")
    found = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if found is None:
        yield f"its architecture is {name!r}; known are {', '.join(ARCHITECTURES)}"
        return
    said = {key.removeprefix(f"{name}."): value for key, value in header.values.items() if key.startswith(f"{name}.")}
    problems = [*_keys(found, said)] or [*_tensors(found, said, header), *_tokenizer(header)]
    yield from problems


def _keys(found: Architecture, said: Mapping[str, Value]) -> Iterator[str]:
    for key in found.needed:
        if key not in said:
            yield f"it does not say its {key}"
        elif not key.endswith("epsilon") and key != "rope.freq_base" and not _count(said[key]):
            yield f"its {key} is {said[key]!r}"
    granted = {**_WITHOUT_EFFECT, **found.granted}
    for key in found.granted:
        if key not in said:
            yield f"it does not say its {key}"
    for key, value in said.items():
        if key in granted and value != granted[key]:
            yield f"its {key} is {value!r}, which transformers does not read: it takes {granted[key]!r}"
        elif key not in (*found.needed, *found.also, *_SIZES, *granted):
            yield f"it has {key}, which transformers does not read"


def _count(value: Value) -> bool:
    return type(value) is int and 0 < value < 1 << 24


def _tensors(found: Architecture, said: Mapping[str, Value], header: Header) -> Iterator[str]:
    """The tensors are those of the architecture, in every block, of the sizes that the metadata say."""
    sizes = {key: value for key in _NEEDED if type(value := said[key]) is int}
    blocks, width, heads = (sizes[key] for key in ("block_count", "embedding_length", "attention.head_count"))
    wanted = {*found.top, *(f"blk.{number}.{name}" for number in range(min(blocks, len(header.tensors)))
                            for name in found.block)}
    names = set(header.tensors) - found.optional
    if odd := sorted(names ^ wanted):
        kinds = (("lacks", wanted - names), ("has", names - wanted))
        what = " and ".join(f"{verb} {', '.join(sorted(some)[:3])}" for verb, some in kinds if some)
        yield f"{len(odd)} tensors are not those of a {header.values['general.architecture']} of {blocks} blocks: " \
              f"it {what}"
        return
    head = next((said[key] for key in _SIZES if key in said), found.head or width // heads)
    odd_sizes = {key: said[key] for key in _SIZES if key in said and said[key] != head}
    if odd_sizes or not isinstance(head, int) or (found.head or head) != head or heads * head > 1 << 24:
        yield f"its heads are of {head}, {odd_sizes}; one size is read" + (f", {found.head}" if found.head else "")
        return
    table = header.tensors["token_embd.weight"]
    tokens = header.counts.get("tokenizer.ggml.tokens")
    shapes = {"token_embd.weight": (width, tokens or 0), "output.weight": (width, tokens or 0)}
    for number in range(blocks):
        shapes[f"blk.{number}.attn_output.weight"] = (heads * head, width)
        shapes[f"blk.{number}.ffn_down.weight"] = (sizes["feed_forward_length"], width)
    if said.get("vocab_size", tokens) != tokens:
        yield f"it has {tokens} tokens and speaks of {said['vocab_size']}"
    for name, shape in shapes.items():
        if (tensor := header.tensors.get(name)) is not None and tensor.shape != shape:
            yield f"{_called(tensor)}, the metadata say {shape}"
    if (scaled := header.tensors.get(SCALED)) is not None and (scaled.shape, scaled.type) != ((head // 2,), "F32"):
        yield f"{_called(scaled)} of {scaled.type}, a head has {head // 2} pairs"
    if len(table.shape) != 2:
        yield f"{_called(table)} is no table"


def _called(tensor: Tensor) -> str:
    return f"{tensor.name} is {tensor.shape}"


def _tokenizer(header: Header) -> Iterator[str]:
    kind = header.values.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        yield f"its tokenizer is of kind {kind!r}; known are gpt2 and llama"
    if kind == "gpt2" and "tokenizer.ggml.merges" not in header.counts:
        yield "its tokenizer has no merges"
