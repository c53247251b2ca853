"""A decoder's graph in standard operators, named as optimum or as torch.onnx.export names them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from synthetic.decoders import CONTEXT, EPSILON, Decoder, Shape, angles
from synthetic.writing import Writer


@dataclass
class _Scribe:
    """Writes nodes of one module after the other. `torch`: modules stand in metadata, names tell nothing."""

    w: Writer
    s: Shape
    torch: bool
    module: list[str] = field(default_factory=lambda: ["model"])
    shared: dict[str, str] = field(default_factory=dict)

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        number = len(self.w.nodes)
        name = f"node_{op}_{number}" if self.torch else f"/{'/'.join(self.module)}/{op}_{number}"
        results = [f"val_{number}_{i}" if self.torch else f"{name}_output_{i}" for i in range(outputs)]
        self.w.node(op, name, list(inputs), results, **attributes)
        if self.torch:
            paths = ["", *(".".join(self.module[: i + 1]) for i in range(len(self.module)))]
            entry = self.w.nodes[-1].metadata_props.add()
            entry.key, entry.value = "pkg.torch.onnx.name_scopes", str(paths)
        return results[0]

    def integers(self, *numbers: int, scalar: bool = False) -> str:
        value = np.array(numbers[0] if scalar else numbers, np.int64)
        return self.node("Constant", value=numpy_helper.from_array(value))

    def number(self, value: float, dtype: np.dtype) -> str:
        return self.node("Constant", value=numpy_helper.from_array(np.array(value, dtype)))

    def weight(self, value: np.ndarray) -> str:
        return self.w.weight(f"{'val' if self.torch else 'onnx::MatMul'}_w{len(self.w.weights)}", value)

    def inside(self, *modules: str) -> _Scribe:
        """The same graph, further inside."""
        return _Scribe(self.w, self.s, self.torch, [*self.module, *modules], self.shared)

    def norm(self, x: str, gain: np.ndarray, beta: np.ndarray | None = None) -> str:
        if beta is None:
            return self._rms(x, gain)
        if self.s.layer == "op":
            return self.node("LayerNormalization", x, self.weight(gain), self.weight(beta), epsilon=EPSILON)
        wide = self.node("Cast", x, to=TensorProto.FLOAT)
        less = self.node("Sub", wide, self.node("ReduceMean", wide, self.integers(-1)))
        mean = self.node("ReduceMean", self.node("Mul", less, less), self.integers(-1))
        root = self.node("Sqrt", self.node("Add", mean, self.number(EPSILON, np.dtype(np.float32))))
        normed = self.node("Cast", self.node("Div", less, root), to=self.w.element)
        return self.node("Add", self.node("Mul", normed, self.weight(gain)), self.weight(beta))

    def _rms(self, x: str, gain: np.ndarray) -> str:
        single = np.dtype(np.float32)
        wide = self.node("Cast", x, to=TensorProto.FLOAT)
        mean = self.node("ReduceMean", self.node("Pow", wide, self.number(2, single)), self.integers(-1))
        root = self.node("Sqrt", self.node("Add", mean, self.number(EPSILON, single)))
        normed = self.node("Mul", wide, self.node("Div", self.number(1, single), root))
        return self.node("Mul", self.weight(gain), self.node("Cast", normed, to=self.w.element))

    def linear(self, x: str, matrix: np.ndarray, bias: np.ndarray | None) -> str:
        if self.s.form.startswith("gemm"):
            flat = self.node("Reshape", x, self.integers(-1, matrix.shape[0]))
            turned = self.s.form == "gemm_turned"
            operands = [flat, self.weight(matrix.T if turned else matrix)]
            operands += [self.weight(bias)] if bias is not None else []
            y = self.node("Gemm", *operands, **({"transB": 1} if turned else {}))
            shape = self.node("Concat", self.node("Shape", x, end=2), self.integers(matrix.shape[1]), axis=0)
            return self.node("Reshape", y, shape)
        if self.s.form == "turned":
            y = self.node("MatMul", x, self.node("Transpose", self.weight(matrix.T), perm=[1, 0]))
        else:
            y = self.node("MatMul", x, self.weight(matrix))
        return self.node("Add", self.weight(bias), y) if bias is not None else y

    def linears(self, x: str, block: dict[str, np.ndarray], roles: tuple[str, ...]) -> list[str]:
        """Results of roles that read one input; packed, they are one linear and a Split."""
        if not self.s.packed or len(roles) == 1:
            return [self.inside(f"{role}_proj").linear(x, block[role], block.get(f"bias.{role}")) for role in roles]
        bias = np.concatenate([block[f"bias.{r}"] for r in roles]) if f"bias.{roles[0]}" in block else None
        name = "qkv_proj" if len(roles) == 3 else "gate_up_proj"
        y = self.inside(name).linear(x, np.concatenate([block[r] for r in roles], 1), bias)
        sizes = self.integers(*(block[r].shape[1] for r in roles))
        first = self.node("Split", y, sizes, outputs=len(roles), axis=-1)
        return [f"{first[:-1]}{i}" for i in range(len(roles))]


def write_standard(decoder: Decoder, path: Path, style: str = "optimum") -> None:
    """model.onnx with its shapes inferred, in the `optimum` or the `torch` style."""
    s, w = decoder.shape, Writer(decoder.shape.dtype)
    scribe = _Scribe(w, s, style == "torch")
    past, present = (_ports(style, s.blocks, i) for i in (0, 1))
    _positions(scribe)
    head = scribe.weight(decoder.embedding if s.tied else decoder.head)
    x = scribe.inside("embed_tokens").node("Gather", head if s.tied else scribe.weight(decoder.embedding), "input_ids")
    for i, block in enumerate(decoder.blocks):
        x = _block(scribe.inside(f"layers.{i}"), block, x, past[i], present[i])
    x = scribe.inside("norm").norm(x, decoder.norm, decoder.beta)
    matrix = scribe.node("Transpose", head, perm=[1, 0]) if s.tied else head
    w.node("MatMul", "/lm_head/MatMul", [x, matrix], ["logits"])
    cache = ["batch_size", s.kv_heads, "past_sequence_length", s.head_size]
    values = [("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
              ("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"]),
              ("position_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
              *((name, w.element, cache) for pair in past for name in pair)]
    results = [("logits", w.element, ["batch_size", "sequence_length", s.vocab]),
               *((name, w.element, [*cache[:2], "total_sequence_length", s.head_size])
                 for pair in present for name in pair)]
    graph = helper.make_graph(
        w.nodes, "main_graph", [helper.make_tensor_value_info(*v) for v in values],
        [helper.make_tensor_value_info(*v) for v in results], w.weights)
    ir_version = 8 if style == "optimum" else 10
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=ir_version)
    onnx.save(onnx.shape_inference.infer_shapes(model, strict_mode=True), path)


def _ports(style: str, blocks: int, out: int) -> list[list[str]]:
    if style == "torch":
        prefix = ("input", "output")[out]
        return [[f"{prefix}.past_key_values.layers.{i}.{kind}s" for kind in ("key", "value")] for i in range(blocks)]
    return [[f"{('past_key_values', 'present')[out]}.{i}.{kind}" for kind in ("key", "value")] for i in range(blocks)]


def _positions(scribe: _Scribe) -> None:
    """Angles and the mask, that all blocks read."""
    rotary, shared = scribe.inside("rotary_emb"), scribe.shared
    for name, wave in (("cos", np.cos), ("sin", np.sin)):
        table = np.tile(wave(angles(scribe.s.head_size, CONTEXT)), 2)
        table = scribe.w.weight(f"model.rotary_emb.{name}", table)
        shared[name] = rotary.node("Unsqueeze", rotary.node("Gather", table, "position_ids"), scribe.integers(1))
    total = scribe.node("Gather", scribe.node("Shape", "attention_mask"), scribe.integers(1, scalar=True))
    keys = scribe.node("Range", scribe.integers(0, scalar=True), total, scribe.integers(1, scalar=True))
    queries = scribe.node("Unsqueeze", "position_ids", scribe.integers(-1))
    seen = scribe.node("And", scribe.node("LessOrEqual", keys, queries), scribe.node(
        "Unsqueeze", scribe.node("Cast", "attention_mask", to=TensorProto.BOOL), scribe.integers(1)))
    dtype = scribe.s.stored
    mask = scribe.node("Where", seen, scribe.number(0, dtype), scribe.number(-30000, dtype))
    shared["mask"] = scribe.node("Unsqueeze", mask, scribe.integers(1))


def _block(m: _Scribe, block: dict[str, np.ndarray], x: str, past: list[str], present: list[str]) -> str:
    def norm(i: int, y: str) -> str:
        return m.inside(f"norm_{i}").norm(y, block[f"norm.{i}"], block.get(f"beta.{i}"))

    def attention(y: str) -> str:
        return _attention(m.inside("self_attn"), block, y, past, present)

    def mlp(y: str) -> str:
        return _mlp(m.inside("mlp"), block, y)

    match m.s.norms:
        case "before":
            x = m.node("Add", x, attention(norm(0, x)))
            return m.node("Add", x, mlp(norm(1, x)))
        case "after":
            x = m.node("Add", x, norm(0, attention(x)))
            return m.node("Add", x, norm(1, mlp(x)))
        case "both":
            x = m.node("Add", x, norm(1, attention(norm(0, x))))
            return m.node("Add", x, norm(3, mlp(norm(2, x))))
        case "sum":
            x = norm(0, m.node("Add", x, attention(x)))
            return norm(1, m.node("Add", x, mlp(x)))
        case _:
            return m.node("Add", m.node("Add", mlp(norm(1, x)), attention(norm(0, x))), x)


def _mlp(m: _Scribe, block: dict[str, np.ndarray], x: str) -> str:
    results = m.linears(x, block, ("gate", "up") if m.s.gated else ("up",))
    act = m.inside("act_fn")
    y = act.node("Mul", results[0], act.node("Sigmoid", results[0]))
    return m.linears(m.node("Mul", y, results[1]) if m.s.gated else y, block, ("down",))[0]


def _attention(m: _Scribe, block: dict[str, np.ndarray], x: str, past: list[str], present: list[str]) -> str:
    s, parts = m.s, {}
    for role, y in zip("qkv", m.linears(x, block, ("q", "k", "v")), strict=True):
        y = m.node("Reshape", y, m.integers(0, 0, s.heads if role == "q" else s.kv_heads, s.head_size))
        if f"norm.{role}" in block:
            y = m.inside(f"{role}_norm").norm(y, block[f"norm.{role}"])
        y = m.node("Transpose", y, perm=[0, 2, 1, 3])
        parts[role] = y if role == "v" else _rotated(m, y)
    for role, old, new in zip("kv", past, present, strict=True):
        m.node("Concat", old, parts[role], axis=2)
        m.w.nodes[-1].output[0] = new
        parts[role] = new
        if s.heads != s.kv_heads:
            times = m.integers(1, 1, s.heads // s.kv_heads, 1, 1)
            repeated = m.node("Expand", m.node("Unsqueeze", new, m.integers(2)), times)
            parts[role] = m.node("Reshape", repeated, m.integers(0, s.heads, -1, s.head_size))
    scores = m.node("MatMul", parts["q"], m.node("Transpose", parts["k"], perm=[0, 1, 3, 2]))
    wide = m.node("Cast", scores, to=TensorProto.FLOAT)
    wide = m.node("Mul", wide, m.number(1 / np.sqrt(s.head_size), np.dtype(np.float32)))
    scaled = m.node("Cast", wide, to=m.w.element)
    share = m.node("Softmax", m.node("Add", scaled, m.shared["mask"]), axis=-1)
    y = m.node("Transpose", m.node("MatMul", share, parts["v"]), perm=[0, 2, 1, 3])
    return m.linears(m.node("Reshape", y, m.integers(0, 0, s.heads * s.head_size)), block, ("o",))[0]


def _rotated(m: _Scribe, x: str) -> str:
    half, whole = m.s.head_size // 2, m.s.head_size
    low = m.node("Slice", x, m.integers(0), m.integers(half), m.integers(-1))
    high = m.node("Slice", x, m.integers(half), m.integers(whole), m.integers(-1))
    turned = m.node("Concat", m.node("Neg", high), low, axis=-1)
    return m.node("Add", m.node("Mul", x, m.shared["cos"]), m.node("Mul", turned, m.shared["sin"]))
