"""A dense bundle of any size with random weights, and a plan that folds a quarter of its blocks; no PyTorch.

The graph is a Llama as the onnxruntime-genai builder writes it. Weights go to disk in pieces of a megabyte, so memory
stays the same whatever the size. For speed and memory only: the weights are noise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from foldrank.benchmarks.random_checkpoint import Shape, shape_of
from foldrank.bundle.bundle import Bundle, FileEntry, seal
from foldrank.digests import WeightDigest, sha256_file
from foldrank.disk.staging import staged_folder
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.passes.hashed_file import HashedFile
from foldrank.passes.write import DATA, MODEL
from foldrank.planfile.document import PlanDocument, Source
from foldrank.planfile.plan import Plan
from foldrank.versions import versions

_HEAD = 64
_CONTEXT = 2048
_PIECE = 1 << 18
"""Weights drawn and written at a time."""
_ROLES = {"self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v", "self_attn.o_proj": "o",
          "mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.down_proj": "down"}
_FLOAT, _INT64, _INT32 = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT32
_MS = "com.microsoft"


def write_random(size: int, folder: Path, *, seed: int = 0) -> tuple[Bundle, Plan]:
    """Write a bundle of at least `size` bytes (4 MB to 40 GB), by a block at most. Raises ValueError, SourceError."""
    shape = replace(shape_of(size // 4), tied=False)
    while 4 * shape.parameters < size:
        shape = replace(shape, blocks=shape.blocks + 1)
    with staged_folder(folder) as stage, HashedFile(stage / DATA) as data:
        graph = _Graph(data, np.random.default_rng(seed))
        model = _model(shape, graph)
        proto = ir.to_proto(model).SerializeToString()
        (stage / MODEL).write_bytes(proto)
        _json(stage / "config.json", {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "random_weights": True,
            "num_hidden_layers": shape.blocks, "vocab_size": shape.vocabulary, "hidden_size": shape.hidden,
        })
        decoder = {"num_hidden_layers": shape.blocks, "head_size": _HEAD, "filename": MODEL}
        _json(stage / "genai_config.json", {"model": {"decoder": decoder}})
        source = {"name": "random", "config_sha256": sha256_file(stage / "config.json"),
                  "architecture": "LlamaForCausalLM"}
        known = {DATA: data.entry(), MODEL: FileEntry(hashlib.sha256(proto).hexdigest(), len(proto))}
        manifest = seal(stage, command="benchmark", seed=seed, source=source, exporter="genai", dtype="fp32",
                        versions=versions(), known=known,
                        weights=(known, {site: digest.fp32 for site, digest in graph.digests.items()}))
    folds = tuple(FoldBlocks(i, (i, i + 1), {i: 0.0, i + 1: 1.0}, "top") for i in range(1, shape.blocks - 1, 4))
    named = {b for fold in folds for b in fold.blocks}
    weights = {site: digest for site, digest in graph.digests.items() if int(site[6:8]) in named}
    origin = Source("random", source["config_sha256"], "LlamaForCausalLM", shape.blocks, weights)
    return Bundle(folder.absolute(), manifest), Plan(PlanDocument(origin, None, (), {}, {}, folds), {})


class _Graph:
    """Nodes and initializers so far. `digests` are of fp32 alone, which is what the bundle holds."""

    def __init__(self, data: HashedFile, rng: np.random.Generator) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self.digests: dict[str, WeightDigest] = {}
        self._data, self._rng = data, rng

    def weight(self, name: str, *dims: int, around: float = 0.0, site: str = "") -> ir.Value:
        """Uniform noise around a number, streamed to the data file."""
        self._data.pad(64)
        start, found = self._data.position, hashlib.sha256()
        for piece in self._pieces(int(np.prod(dims))):
            view = memoryview((0.04 * piece + np.float32(around - 0.02)).view(np.uint8).data)
            self._data.write(view)
            if site:
                found.update(view)
        if site:
            self.digests[site] = WeightDigest(found.hexdigest(), "0" * 64, "0" * 64)
        tensor = ir.ExternalTensor(DATA, start, self._data.position - start, _FLOAT, shape=ir.Shape(dims), name=name,
                                   base_dir=self._data.path.parent)
        return self.initializer(name, tensor)

    def initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Register a tensor."""
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()),
                         const_value=tensor)
        self.initializers.append(value)
        return value

    def node(
        self, op: str, name: str, inputs: list[ir.Value | None], outputs: list[ir.Value] | None = None,
        domain: str = "", **attributes: Any,
    ) -> ir.Value:
        """Append a node; its first output."""
        made = outputs or [ir.Value(name=f"{name}/output_0")]
        self.nodes.append(ir.node(op, inputs, attributes, domain=domain, outputs=made, name=name))
        return made[0]

    def _pieces(self, count: int) -> Iterator[np.ndarray]:
        for start in range(0, count, _PIECE):
            yield self._rng.random(min(_PIECE, count - start), dtype=np.float32)


def _model(s: Shape, g: _Graph) -> ir.Model:
    ids, mask = (_port(name, _INT64, ["batch_size", f"{axis}sequence_length"])
                 for name, axis in (("input_ids", ""), ("attention_mask", "total_")))
    one = g.initializer("one", ir.tensor(np.array([1]), name="one"))
    at = g.initializer("at", ir.tensor(np.array(1), name="at"))
    total = g.node("ReduceSum", "/model/mask/ReduceSum", [mask, one], keepdims=0)
    lengths = g.node("Cast", "/model/mask/Sub/Cast", [g.node("Sub", "/model/mask/Sub", [total, one])], to=_INT32.value)
    width = g.node("Gather", "/model/mask/Gather", [g.node("Shape", "/model/mask/Shape", [mask]), at])
    angles = [g.weight(f"{name}_cache", _CONTEXT, _HEAD // 2) for name in ("cos", "sin")]
    shared = [lengths, g.node("Cast", "/model/mask/Gather/Cast", [width], to=_INT32.value), *angles]
    table = g.weight("model.embed_tokens.weight", s.vocabulary, s.hidden)
    stream: tuple[ir.Value, ir.Value | None] = (g.node("Gather", "/model/embed_tokens/Gather", [table, ids]), None)
    caches: list[tuple[list[ir.Value], list[ir.Value]]] = []
    for i in range(s.blocks):
        cache = tuple([_port(f"{kind}.{i}.{name}", _FLOAT, ["batch_size", s.kv_heads, f"{length}_length", _HEAD])
                       for name in ("key", "value")]
                      for kind, length in (("past_key_values", "past_sequence"), ("present", "total_sequence")))
        caches.append((cache[0], cache[1]))
        stream = _block(s, g, i, stream, shared, caches[-1])
    last, _ = _norm(s, g, s.blocks, "final_norm_layernorm", stream)
    logits = _port("logits", _FLOAT, ["batch_size", "sequence_length", s.vocabulary])
    g.node("MatMul", "/lm_head/MatMul", [last, g.weight("lm_head.MatMul.weight", s.hidden, s.vocabulary)], [logits])
    inputs = [ids, mask, *(value for past, _ in caches for value in past)]
    outputs = [logits, *(value for _, present in caches for value in present)]
    graph = ir.Graph(inputs, outputs, nodes=g.nodes, initializers=g.initializers, name="main_graph",
                     opset_imports={"": 21, _MS: 1})
    return ir.Model(graph, ir_version=10)


def _block(
    s: Shape, g: _Graph, i: int, stream: tuple[ir.Value, ir.Value | None], shared: list[ir.Value],
    cache: tuple[list[ir.Value], list[ir.Value]],
) -> tuple[ir.Value, ir.Value | None]:
    """One block: (residual, branch to be added to it) in and out."""
    def linear(x: ir.Value, name: str) -> ir.Value:
        out, n_in = s.linears[name]
        label = name.replace("self_attn", "attn")
        site = f"block.{i:02d}.{_ROLES[name]}"
        weight = g.weight(f"model.layers.{i}.{label}.MatMul.weight", n_in, out, site=site)
        return g.node("MatMul", f"/model/layers.{i}/{label.replace('.', '/')}/MatMul", [x, weight])

    normed, residual = _norm(s, g, i, "input_layernorm", stream)
    heads = [linear(normed, f"self_attn.{role}_proj") for role in "qkv"]
    name = f"/model/layers.{i}/attn/GroupQueryAttention"
    attended = g.node(
        "GroupQueryAttention", name, [*heads, *cache[0], *shared], [ir.Value(name=f"{name}/output_0"), *cache[1]], _MS,
        num_heads=s.heads, kv_num_heads=s.kv_heads, do_rotary=1, rotary_interleaved=0,
    )
    normed, residual = _norm(s, g, i, "post_attention_layernorm", (residual, linear(attended, "self_attn.o_proj")))
    gate, up = (linear(normed, f"mlp.{role}_proj") for role in ("gate", "up"))
    mlp = f"/model/layers.{i}/mlp"
    act = g.node("Mul", f"{mlp}/act_fn/Mul", [gate, g.node("Sigmoid", f"{mlp}/act_fn/Sigmoid", [gate])])
    return residual, linear(g.node("Mul", f"{mlp}/Mul", [act, up]), "mlp.down_proj")


def _norm(
    s: Shape, g: _Graph, i: int, label: str, stream: tuple[ir.Value, ir.Value | None]
) -> tuple[ir.Value, ir.Value]:
    """The normalised sum of residual and branch, and the sum."""
    name, (residual, branch) = f"/model/layers.{i}/{label}", stream
    gain = g.weight(f"model.layers.{i}.{label}.weight", s.hidden, around=1.0)
    if branch is None:
        normed = g.node("SimplifiedLayerNormalization", f"{name}/LayerNorm", [residual, gain], epsilon=1e-5, axis=-1,
                        stash_type=1)
        return normed, residual
    outputs = [ir.Value(name=f"{name}/output_{j}" if j in (0, 3) else "") for j in range(4)]
    g.node("SkipSimplifiedLayerNormalization", f"{name}/SkipLayerNorm", [residual, branch, gain], outputs, _MS,
           epsilon=1e-5)
    return outputs[0], outputs[3]


def _port(name: str, dtype: ir.DataType, dims: list[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims))


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
