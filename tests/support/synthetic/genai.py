"""A decoder's graph as the onnxruntime-genai model builder writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from foldrank.export.left_padding import take_left_padding
from synthetic.decoders import CONTEXT, EPSILON, ROLES, Decoder, Shape, angles
from synthetic.writing import Writer, inputs, outputs


def write_graph(decoder: Decoder, path: Path) -> None:
    """model.onnx and model.onnx.data, named as the genai builder names them."""
    s, w = decoder.shape, Writer(decoder.shape.dtype)
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
    own = _parameters(w, f"model.layers.{s.blocks}.final_norm_layernorm", decoder.norm, decoder.beta)
    last = w.node(f"Skip{_norm(s)}", name, [residual, branch, *own], domain="com.microsoft", epsilon=EPSILON)
    w.node("MatMul", "/lm_head/MatMul", [last, "lm_head.MatMul.weight"], ["logits"])
    model = helper.make_model(
        helper.make_graph(w.nodes, "main_graph", inputs(s, w.element), outputs(s, w.element), w.weights),
        opset_imports=[helper.make_opsetid("", 22), helper.make_opsetid("com.microsoft", 1)], ir_version=10,
    )
    if s.blocks % 2:  # as foldrank finishes it for the CPU
        assert take_left_padding(model.graph, 22)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)


def _norm(s: Shape) -> str:
    return "LayerNormalization" if s.layer else "SimplifiedLayerNormalization"


def _parameters(w: Writer, name: str, gain: np.ndarray, beta: np.ndarray | None) -> list[str]:
    gains = [w.weight(f"{name}.weight", gain)]
    return gains if beta is None else [*gains, w.weight(f"{name}.bias", beta)]


def _mask(w: Writer) -> tuple[str, str]:
    one = w.node("Constant", "/model/constants/INT64/[1]", [], value=numpy_helper.from_array(np.array([1])))
    axis = w.node("Constant", "/model/constants/INT64/1", [], value=numpy_helper.from_array(np.array(1)))
    total = w.node("ReduceSum", "/model/mask/ReduceSum", ["attention_mask", one], keepdims=0)
    less = w.node("Sub", "/model/mask/Sub", [total, one])
    shape = w.node("Gather", "/model/mask/Gather", [w.node("Shape", "/model/mask/Shape", ["attention_mask"]), axis])
    return (w.node("Cast", "/model/mask/Sub/Cast", [less], to=TensorProto.INT32),
            w.node("Cast", "/model/mask/Gather/Cast", [shape], to=TensorProto.INT32))


def _block(
    w: Writer, s: Shape, i: int, block: dict[str, np.ndarray], residual: str, branch: str, lengths: str, total: str,
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

    def own(label: str, number: int) -> list[str]:
        return _parameters(w, f"{weight}.{label}", block[f"norm.{number}"], block.get(f"beta.{number}"))

    def skip_norm(label: str, number: int, x: str, y: str) -> tuple[str, str]:
        name = f"{node}/{label}/SkipLayerNorm"
        outputs = [f"{node}/{label}/output_0", "", "", f"{node}/{label}/output_3"]
        w.node(f"Skip{_norm(s)}", name, [x, y, *own(label, number)], outputs, "com.microsoft", epsilon=EPSILON)
        return outputs[0], outputs[3]

    if branch:
        normed, residual = skip_norm("input_layernorm", 0, residual, branch)
    else:
        normed = w.node(_norm(s), f"{node}/input_layernorm/LayerNorm", [residual, *own("input_layernorm", 0)],
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
        "post_attention_layernorm", 1, residual, linear(attended, "attn", "o", "o_proj"))
    gate, up = (linear(normed, "mlp", role, f"{role}_proj") for role in ("gate", "up"))
    sigmoid = w.node("Sigmoid", f"{node}/mlp/act_fn/Sigmoid", [gate])
    act = w.node("Mul", f"{node}/mlp/act_fn/Mul", [gate, sigmoid])
    return residual, linear(w.node("Mul", f"{node}/mlp/Mul", [act, up]), "mlp", "down", "down_proj")
