"""Small random decoders as the genai builder writes them, and what they compute, in float64 numpy.

Independent of foldrank's graph code and of torch: onnx.helper writes the graph, the oracle is a plain forward pass.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from foldrank.bundle import Bundle, seal
from foldrank.digests import WeightDigest, combine, sha256_file
from foldrank.edits import FoldBlocks, LowRank, ReplaceWeight
from foldrank.planfile import Plan, PlanDocument, Source
from foldrank.sites import Site

ROLES = ("q", "k", "v", "o", "gate", "up", "down")
EPSILON = 1e-6
CONTEXT = 64


@dataclass(frozen=True)
class Shape:
    """What a decoder looks like."""

    blocks: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 16
    width: int = 48
    mlp: int = 80
    vocab: int = 50
    packed: bool = True
    biased: bool = False
    tied: bool = True
    dtype: str = "float32"

    def linear(self, role: str) -> tuple[int, int]:
        """[in, out] of a role."""
        attention, cache = self.heads * self.head_size, self.kv_heads * self.head_size
        return {"q": (self.width, attention), "k": (self.width, cache), "v": (self.width, cache),
                "o": (attention, self.width), "gate": (self.width, self.mlp), "up": (self.width, self.mlp),
                "down": (self.mlp, self.width)}[role]


@dataclass
class Decoder:
    """Weights as stored. `blocks[i]`: roles, `bias.q/k/v`, `norm.0`, `norm.1`; `low` overrides what a site computes."""

    shape: Shape
    blocks: list[dict[str, np.ndarray]]
    head: np.ndarray
    embedding: np.ndarray
    norm: np.ndarray
    windows: list[int] = field(default_factory=list)

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """Logits [T, vocab] of one sequence, float64 throughout."""
        x = self.embedding.astype(np.float64)[ids]
        for block in self.blocks:
            w = {name: value.astype(np.float64) for name, value in block.items()}
            x = x + _attention(rms(x, w["norm.0"]), w, self.shape)
            y = rms(x, w["norm.1"])
            gate = y @ w["gate"]
            x = x + (gate / (1 + np.exp(-gate)) * (y @ w["up"])) @ w["down"]
        return rms(x, self.norm.astype(np.float64)) @ self.head.astype(np.float64)


def rms(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * gain


def _attention(x: np.ndarray, w: dict[str, np.ndarray], s: Shape) -> np.ndarray:
    parts = {}
    for role, heads in (("q", s.heads), ("k", s.kv_heads), ("v", s.kv_heads)):
        y = x @ w[role] + w.get(f"bias.{role}", 0.0)
        parts[role] = y.reshape(len(x), heads, s.head_size).transpose(1, 0, 2)
    q, k = (rotate(parts[r], s.head_size) for r in "qk")
    k, v = (np.repeat(p, s.heads // s.kv_heads, axis=0) for p in (k, parts["v"]))
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(s.head_size)
    scores[:, np.triu(np.ones((len(x), len(x)), bool), 1)] = -np.inf
    share = np.exp(scores - scores.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    return (share @ v).transpose(1, 0, 2).reshape(len(x), -1) @ w["o"]


def angles(size: int, length: int) -> np.ndarray:
    return np.arange(length)[:, None] / 10000 ** (np.arange(0, size, 2) / size)[None]


def rotate(x: np.ndarray, size: int) -> np.ndarray:
    angle = angles(size, x.shape[1])
    low, high = x[..., : size // 2], x[..., size // 2:]
    return np.concatenate([low * np.cos(angle) - high * np.sin(angle), high * np.cos(angle) + low * np.sin(angle)], -1)


def random_decoder(shape: Shape, seed: int = 0) -> Decoder:
    """Weights large enough that every block matters."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(shape.dtype)

    def draw(*dims: int, scale: float = 1.0, around: float = 0.0) -> np.ndarray:
        return (around + rng.standard_normal(dims) * scale).astype(dtype)

    blocks = []
    for _ in range(shape.blocks):
        block = {role: draw(*shape.linear(role), scale=1 / np.sqrt(shape.linear(role)[0])) for role in ROLES}
        block |= {f"norm.{i}": draw(shape.width, scale=0.2, around=1.0) for i in (0, 1)}
        if shape.biased:
            block |= {f"bias.{r}": draw(shape.linear(r)[1], scale=0.3) for r in "qkv"}
        blocks.append(block)
    head = draw(shape.width, shape.vocab, scale=0.3)
    embedding = head.T.copy() if shape.tied else draw(shape.vocab, shape.width)
    return Decoder(shape, blocks, head, embedding, draw(shape.width, scale=0.2, around=1.0), [-1] * shape.blocks)


class _Writer:
    def __init__(self, dtype: str) -> None:
        self.element = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[dtype]
        self.dtype = np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value.astype(self.dtype)), name))
        return name

    def node(self, op: str, name: str, inputs: list[str], outputs: list[str] | None = None, domain: str = "",
             **attributes: Any) -> str:
        outputs = outputs or [f"{name}/output_0"]
        self.nodes.append(helper.make_node(op, inputs, outputs, name, domain=domain, **attributes))
        return outputs[0]


def write_graph(decoder: Decoder, path: Path) -> None:
    """model.onnx and model.onnx.data, named as the genai builder names them."""
    s, w = decoder.shape, _Writer(decoder.shape.dtype)
    lengths, total = _mask(w)
    w.weight("cos_cache", np.cos(angles(s.head_size, CONTEXT)))
    w.weight("sin_cache", np.sin(angles(s.head_size, CONTEXT)))
    w.weight("lm_head.MatMul.weight", decoder.head)
    if s.tied:
        table = w.node("Transpose", "/model/embed_tokens/Transpose", ["lm_head.MatMul.weight"], perm=[1, 0])
    else:
        table = w.weight("model.embed_tokens.weight", decoder.embedding)
    residual, branch = w.node("Gather", "/model/embed_tokens/Gather", [table, "input_ids"]), ""
    for i, block in enumerate(decoder.blocks):
        residual, branch = _block(w, s, i, block, residual, branch, lengths, total, decoder.windows[i])
    name = f"/model/layers.{s.blocks}/final_norm_layernorm/SkipLayerNorm"
    gain = w.weight(f"model.layers.{s.blocks}.final_norm_layernorm.weight", decoder.norm)
    last = w.node("SkipSimplifiedLayerNormalization", name, [residual, branch, gain], domain="com.microsoft",
                  epsilon=EPSILON)
    w.node("MatMul", "/lm_head/MatMul", [last, "lm_head.MatMul.weight"], ["logits"])
    model = helper.make_model(
        helper.make_graph(w.nodes, "main_graph", _inputs(s, w.element), _outputs(s, w.element), w.weights),
        opset_imports=[helper.make_opsetid("", 22), helper.make_opsetid("com.microsoft", 1)], ir_version=10,
    )
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)


def _mask(w: _Writer) -> tuple[str, str]:
    one = w.node("Constant", "/model/constants/INT64/[1]", [], value=numpy_helper.from_array(np.array([1])))
    axis = w.node("Constant", "/model/constants/INT64/1", [], value=numpy_helper.from_array(np.array(1)))
    total = w.node("ReduceSum", "/model/mask/ReduceSum", ["attention_mask", one], keepdims=0)
    less = w.node("Sub", "/model/mask/Sub", [total, one])
    shape = w.node("Gather", "/model/mask/Gather", [w.node("Shape", "/model/mask/Shape", ["attention_mask"]), axis])
    return (w.node("Cast", "/model/mask/Sub/Cast", [less], to=TensorProto.INT32),
            w.node("Cast", "/model/mask/Gather/Cast", [shape], to=TensorProto.INT32))


def _block(
    w: _Writer, s: Shape, i: int, block: dict[str, np.ndarray], residual: str, branch: str, lengths: str, total: str,
    window: int,
) -> tuple[str, str]:
    node, weight = f"/model/layers.{i}", f"model.layers.{i}"

    def linear(x: str, group: str, roles: str, label: str) -> str:
        names = ROLES[:3] if roles == "qkv" else (roles,)
        matrix = w.weight(f"{weight}.{group}.{label}.MatMul.weight", np.concatenate([block[r] for r in names], 1))
        y = w.node("MatMul", f"{node}/{group}/{label}/MatMul", [x, matrix])
        if f"bias.{names[0]}" not in block:
            return y
        bias = w.weight(f"{weight}.{group}.{label}.Add.bias", np.concatenate([block[f"bias.{r}"] for r in names]))
        return w.node("Add", f"{node}/{group}/{label}/Add", [y, bias])

    def skip_norm(label: str, gain: str, x: str, y: str) -> tuple[str, str]:
        name = f"{node}/{label}/SkipLayerNorm"
        gain = w.weight(f"{weight}.{label}.weight", block[gain])
        outputs = [f"{node}/{label}/output_0", "", "", f"{node}/{label}/output_3"]
        w.node("SkipSimplifiedLayerNormalization", name, [x, y, gain], outputs, "com.microsoft", epsilon=EPSILON)
        return outputs[0], outputs[3]

    if branch:
        normed, residual = skip_norm("input_layernorm", "norm.0", residual, branch)
    else:
        gain = w.weight(f"{weight}.input_layernorm.weight", block["norm.0"])
        normed = w.node("SimplifiedLayerNormalization", f"{node}/input_layernorm/LayerNorm", [residual, gain],
                        epsilon=EPSILON, axis=-1, stash_type=1)
    if s.packed:
        qkv = [linear(normed, "attn", "qkv", "qkv_proj"), "", ""]
    else:
        qkv = [linear(normed, "attn", role, f"{role}_proj") for role in "qkv"]
    past = [f"past_key_values.{i}.{kind}" for kind in ("key", "value")]
    present = [f"present.{i}.{kind}" for kind in ("key", "value")]
    attended = w.node(
        "GroupQueryAttention", f"{node}/attn/GroupQueryAttention",
        [*qkv, *past, lengths, total, "cos_cache", "sin_cache"],
        [f"{node}/attn/GroupQueryAttention/output_0", *present], "com.microsoft", num_heads=s.heads,
        kv_num_heads=s.kv_heads, do_rotary=1, rotary_interleaved=0, local_window_size=window,
    )
    normed, residual = skip_norm(
        "post_attention_layernorm", "norm.1", residual, linear(attended, "attn", "o", "o_proj"))
    gate, up = (linear(normed, "mlp", role, f"{role}_proj") for role in ("gate", "up"))
    sigmoid = w.node("Sigmoid", f"{node}/mlp/act_fn/Sigmoid", [gate])
    act = w.node("Mul", f"{node}/mlp/act_fn/Mul", [gate, sigmoid])
    return residual, linear(w.node("Mul", f"{node}/mlp/Mul", [act, up]), "mlp", "down", "down_proj")


def _inputs(s: Shape, element: int) -> list[onnx.ValueInfoProto]:
    ids = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
           helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"])]
    return ids + _cache(s, element, "past_key_values", "past_sequence_length")


def _outputs(s: Shape, element: int) -> list[onnx.ValueInfoProto]:
    logits = helper.make_tensor_value_info("logits", element, ["batch_size", "sequence_length", s.vocab])
    return [logits, *_cache(s, element, "present", "total_sequence_length")]


def _cache(s: Shape, element: int, prefix: str, length: str) -> list[onnx.ValueInfoProto]:
    dims = ["batch_size", s.kv_heads, length, "kv_cache_dim"]
    return [helper.make_tensor_value_info(f"{prefix}.{i}.{kind}", element, dims)
            for kind in ("key", "value") for i in range(s.blocks)]


def write_bundle(decoder: Decoder, folder: Path) -> Bundle:
    """A dense bundle around the decoder's graph."""
    folder.mkdir(parents=True)
    s = decoder.shape
    write_graph(decoder, folder / "model.onnx")
    config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": s.blocks, "vocab_size": s.vocab,
              "layer_types": [f"full_{i}" for i in range(s.blocks)], "eos_token_id": list(range(s.blocks))}
    (folder / "config.json").write_text(json.dumps(config))
    genai = {"model": {"decoder": {"num_hidden_layers": s.blocks, "head_size": s.head_size, "filename": "model.onnx"}}}
    (folder / "genai_config.json").write_text(json.dumps(genai))
    (folder / "tokenizer.json").write_text("{}")
    digest = sha256_file(folder / "config.json")
    source = {"name": "tiny", "path": "tiny", "config_sha256": digest, "architecture": "LlamaForCausalLM"}
    manifest = seal(folder, command="export", seed=0, source=source, exporter="genai", dtype="fp32", versions={})
    return Bundle(folder, manifest)


class PlanMaker:
    """Makes plans for a decoder and, apart from foldrank's passes, the decoder that each plan asks for."""

    def __init__(self, decoder: Decoder, config_sha256: str) -> None:
        self.decoder, self.config_sha256 = decoder, config_sha256
        self.folds: list[FoldBlocks] = []
        self.edits: list[LowRank | ReplaceWeight] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.blocks = [dict(block) for block in decoder.blocks]

    def fold(self, blocks: tuple[int, ...], coefficients: dict[int, float], into: int | None = None,
             norms: str = "bottom") -> PlanMaker:
        """Merge neighbours; `into` is the lowest where not given."""
        into = blocks[0] if into is None else into
        fold = FoldBlocks(into, blocks, coefficients, norms)
        merged = {name: combine([self.decoder.blocks[b][name] for b in blocks], [coefficients[b] for b in blocks])
                  for name in self.decoder.blocks[into] if not name.startswith("norm")}
        kept = self.decoder.blocks[blocks[0] if norms == "bottom" else blocks[-1]]
        self.blocks[into] = {**merged, "norm.0": kept["norm.0"], "norm.1": kept["norm.1"]}
        self.folds.append(fold)
        return self

    def low_rank(self, site: str, rank: int, seed: int = 0) -> PlanMaker:
        """A random pair, so that a graph that ignores it is found out."""
        parsed = Site.parse(site)
        weights = [self.blocks[parsed.block][role] for role in parsed.roles]
        n_in, n_out = weights[0].shape[0], sum(w.shape[1] for w in weights)
        rng = np.random.default_rng([seed, n_in, n_out, rank])
        a = rng.standard_normal((n_in, rank)).astype(np.float32) / np.float32(np.sqrt(n_in))
        b = rng.standard_normal((rank, n_out)).astype(np.float32) / np.float32(np.sqrt(rank))
        names = (f"{site}.A", f"{site}.B")
        self.edits.append(LowRank(parsed, (n_in, n_out), rank, names, tuple(WeightDigest.of(w) for w in weights)))
        self.arrays |= {names[0]: a, names[1]: b}
        dtype = np.dtype(self.decoder.shape.dtype)
        self._set(parsed, a.astype(dtype).astype(np.float64) @ b.astype(dtype).astype(np.float64))
        return self

    def replace(self, site: str, seed: int = 0) -> PlanMaker:
        """A random dense weight."""
        parsed = Site.parse(site)
        weights = [self.blocks[parsed.block][role] for role in parsed.roles]
        shape = (weights[0].shape[0], sum(w.shape[1] for w in weights))
        new = (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        self.edits.append(ReplaceWeight(parsed, f"{site}.W", tuple(WeightDigest.of(w) for w in weights)))
        self.arrays[f"{site}.W"] = new
        self._set(parsed, new)
        return self

    def _set(self, site: Site, whole: np.ndarray) -> None:
        start = 0
        for role in site.roles:
            width = self.blocks[site.block][role].shape[1]
            self.blocks[site.block][role] = whole[:, start : start + width]
            start += width

    def plan(self) -> Plan:
        """The plan."""
        named = sorted({b for fold in self.folds for b in fold.blocks})
        weights = {f"block.{b:02d}.{r}": WeightDigest.of(self.decoder.blocks[b][r]) for b in named for r in ROLES}
        source = Source("tiny", self.config_sha256, "LlamaForCausalLM", self.decoder.shape.blocks, weights)
        document = PlanDocument(source, None, (), {}, {}, (*self.folds, *self.edits))
        return Plan(document, self.arrays)

    def expected(self) -> Decoder:
        """What the compressed graph must compute."""
        gone = {b for fold in self.folds for b in fold.leaving}
        d = self.decoder
        blocks = [block for i, block in enumerate(self.blocks) if i not in gone]
        return Decoder(d.shape, blocks, d.head, d.embedding, d.norm)


def run_onnx(path: Path, ids: np.ndarray, steps: tuple[int, ...] | None = None) -> np.ndarray:
    """Logits [T, vocab] from ONNX Runtime, the sequence fed in pieces of the given lengths through the cache."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    cache = {}
    for entry in session.get_inputs():
        if entry.name.startswith("past"):
            size = entry.shape[3] if isinstance(entry.shape[3], int) else 16
            dtype = np.float16 if "float16" in entry.type else np.float32
            cache[entry.name] = np.zeros((1, entry.shape[1], 0, size), dtype)
    names = [output.name for output in session.get_outputs()]
    results, start = [], 0
    for length in steps or (len(ids),):
        stop = start + length
        feed = {"input_ids": ids[None, start:stop], "attention_mask": np.ones((1, stop), np.int64), **cache}
        if any(entry.name == "position_ids" for entry in session.get_inputs()):
            feed["position_ids"] = np.arange(start, stop)[None]
        found = dict(zip(names, session.run(names, feed), strict=True))
        results.append(found["logits"][0])
        cache = {name: found[name.replace("past_key_values", "present")] for name in cache}
        start = stop
    return np.concatenate(results)


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute error over the largest expected magnitude."""
    assert found.shape == expected.shape
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())
