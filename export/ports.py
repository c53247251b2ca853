"""The common input and output names, whatever the exporter called them, and proof that a graph is that decoder.

Works on graphs in memory and touches no weight. Knows checkpoints' configs; knows nothing of files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from foldrank.errors import ExportError
from foldrank.export.bfloat16 import compute_in_fp32, without_kernel
from foldrank.model import facts
from foldrank.model.checkpoint import Checkpoint

_TOKENS = ("input_ids", "attention_mask", "position_ids")
_PART = r"(?:layers\.)?(\d{1,5})\.(key|value)s?"
_BETWEEN = (r"(?:_key_values?|_kv)?[._](?:(?P<n>\d{1,5})[._](?P<kind>key|value|k|v)|"
            r"(?P<kind2>key|value|k|v)[._](?P<n2>\d{1,5}))")
_OTHER_PAST, _OTHER_PRESENT = (re.compile(f"(?:{word}){_BETWEEN}s?")
                               for word in ("past|cache|kv_cache", "present|new|out"))
"""Names of other tools: past_0_key, past_key_0, past_k.0, present_0_key, present_value_0. Shapes prove them below."""
_PAST = re.compile(r"(?:(?:input\.)?past_key_values|(?:input\.)?cache)\." + _PART)
_PRESENT = re.compile(r"(?:present(?:_key_values)?|output\.past_key_values|output\.cache)\." + _PART)
_DTYPES = {ir.DataType.FLOAT: "fp32", ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}


@dataclass(frozen=True)
class Ports:
    """What a runtime must know of a decoder's inputs: token inputs by name, KV heads, their size, the cache's dtype."""

    inputs: tuple[str, ...]
    pairs: int
    kv_heads: int
    head_size: int
    dtype: str


def sizes(checkpoint: Checkpoint) -> tuple[int, int]:
    """Attention heads and head size as config.json says. Raises ExportError where it does not."""
    text = checkpoint.text_config
    heads, size = facts.heads(text), facts.head_size(text)
    if heads is None or size is None:
        raise ExportError(checkpoint.path / "config.json", "does not tell heads and hidden size",
                          "it must have num_attention_heads and hidden_size, or n_head and n_embd")
    return heads, size


def common_ports(model: ir.Model, checkpoint: Checkpoint, *, dtype: str) -> Ports:
    """Give inputs and outputs their common names and the cache its real head size; sums in bfloat16 run in fp32.

    Refuses, leaving the names as they are, a graph with other inputs or outputs, or of another number of blocks, head
    size, vocabulary or dtype than checkpoint and caller say. Raises ExportError with all reasons.
    """
    graph = model.graph
    if dtype != "bf16":
        compute_in_fp32(graph)
    for value in (*graph.inputs, *graph.outputs):
        _settle_axes(value)
    names = {value: _common(value.name or "") for value in (*graph.inputs, *graph.outputs)}
    head_size = sizes(checkpoint)[1]
    if reasons := list(_misfits(graph, names, checkpoint, head_size, dtype)):
        raise ExportError("the exported graph", " | ".join(reasons[:5]), _way_out(reasons))
    taken = {value.name: value for node in graph for value in node.outputs}
    for value, name in names.items():
        if value.name != name and name in taken:
            taken[name].name = f"{name}.inner"
        value.name = name
    for value in names:
        if value.shape is not None and value.name not in (*_TOKENS, "logits"):
            value.shape = ir.Shape([*value.shape.dims[:-1], head_size])
    past = [value for value in graph.inputs if value.name not in _TOKENS]
    assert past[0].shape is not None
    return Ports(
        tuple(name for name in _TOKENS if name in {v.name for v in graph.inputs}), len(past) // 2,
        int(past[0].shape[1]), head_size, dtype,  # type: ignore[arg-type]
    )


def _settle_axes(value: ir.Value) -> None:
    """torch.export names an axis of fixed length by its length: `"2"` becomes 2."""
    if value.shape is not None:
        value.shape = ir.Shape([int(str(d.value)) if isinstance(d, ir.SymbolicDim) and str(d.value).isdecimal() else d
                                for d in value.shape.dims])


def _common(name: str) -> str:
    for pattern, common in ((_PAST, "past_key_values"), (_PRESENT, "present")):
        if match := pattern.fullmatch(name):
            return f"{common}.{int(match[1])}.{match[2]}"
    for pattern, common in ((_OTHER_PAST, "past_key_values"), (_OTHER_PRESENT, "present")):
        if match := pattern.fullmatch(name):
            kind = match["kind"] or match["kind2"]
            return f"{common}.{int(match['n'] or match['n2'])}.{'key' if kind.startswith('k') else 'value'}"
    return name


def _misfits(
    graph: ir.Graph, names: dict[ir.Value, str], checkpoint: Checkpoint, head_size: int, dtype: str
) -> Iterator[str]:
    inputs, outputs = [names[v] for v in graph.inputs], [names[v] for v in graph.outputs]
    pairs = [f"{n}.{part}" for n in range(checkpoint.blocks) for part in ("key", "value")]
    past, present = {f"past_key_values.{p}" for p in pairs}, {f"present.{p}" for p in pairs}
    if odd := sorted(set(inputs) - past - set(_TOKENS)):
        yield f"it has inputs beyond those of a decoder of {checkpoint.blocks} blocks: {', '.join(odd[:4])}"
    if odd := sorted(set(outputs) - present - {"logits"}):
        yield f"it has outputs beyond those of a decoder of {checkpoint.blocks} blocks: {', '.join(odd[:4])}"
    if missing := sorted((past | {"input_ids"}) - set(inputs)) + sorted((present | {"logits"}) - set(outputs)):
        yield f"it lacks {', '.join(missing[:4])}"
    if len(set(inputs)) != len(inputs) or len(set(outputs)) != len(outputs):
        yield "two of its inputs or outputs mean the same"
    yield from fixed_axes((*graph.inputs, *graph.outputs))
    if dtype != "bf16" and (odd_node := without_kernel(graph)) is not None:
        yield (f"{odd_node.name} is a {odd_node.op_type} in bfloat16 inside an {dtype} graph, for which ONNX Runtime "
               "has no kernel on the CPU")
    for value, name in names.items():
        if name in past | present:
            yield from _cache_misfits(value, name, head_size, dtype, is_input=name in past)
    logits = next((v for v, name in names.items() if name == "logits"), None)
    wanted = checkpoint.text_config.get("vocab_size")
    if logits is not None and logits.shape is not None and isinstance(size := logits.shape[-1], int) and size != wanted:
        yield f"logits have {size} entries, config.json says {wanted}"


def fixed_axes(values: Iterable[ir.Value]) -> Iterator[str]:
    """Batch or sequence axes of token inputs and cache that are numbers: such a graph takes no other prompt."""
    for value in values:
        dims = value.shape.dims if value.shape is not None else ()
        name = _common(value.name or "")
        cache = name.startswith(("past_key_values.", "present.")) and len(dims) == 4
        axes = ((0, "batch"), (2, "past")) if cache else ((0, "batch"), (1, "sequence")) if name in _TOKENS else ()
        if found := [f"{what} {dims[i]}" for i, what in axes if i < len(dims) and isinstance(dims[i], int)]:
            yield f"{value.name} has a fixed {' and '.join(found)}"
            return


def _cache_misfits(value: ir.Value, name: str, head_size: int, dtype: str, *, is_input: bool) -> Iterator[str]:
    shape = value.shape
    if is_input and (shape is None or len(shape) != 4 or not isinstance(shape[1], int)):
        yield f"{name} is not [batch, KV heads, past, head size]"
    elif shape is not None and isinstance(size := shape[-1], int) and size != head_size:
        yield f"{name} has head size {size}, config.json says {head_size}"
    if is_input and (found := _DTYPES.get(value.dtype, str(value.dtype)) if value.dtype else "unknown") != dtype:
        yield f"{name} is {found}, not {dtype}"


def _way_out(reasons: list[str]) -> str:
    text = " ".join(reasons)
    if "use_cache_branch" in text:
        return "it is a merged two-branch graph: export again with optimum-onnx 0.1 (text-generation-with-past)"
    if "has a fixed" in text:
        return "export it again with dynamic axes for batch and sequence"
    if match := re.search(r" is (fp32|fp16|bf16), not ", text):
        return f"--dtype {match[1]}"
    return "give the graph with cache of this very checkpoint, or take another --exporter"
