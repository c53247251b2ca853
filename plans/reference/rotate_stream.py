"""rotate_stream in PyTorch: Q as a matrix, gains folded into Linears, a product before the blocks and one behind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from foldrank.edits.rotate_stream import RotateStream
from foldrank.errors import PlanMismatch
from foldrank.plans.reference.model import Layer, Model

_READERS = {"attention": ("q", "k", "v"), "mlp": ("gate", "up")}
_WRITERS = {"attention": "o", "mlp": "down"}
_NORMS = {"attention": "input_layernorm", "mlp": "post_attention_layernorm"}
_BEHIND = ("pre_feedforward_layernorm", "post_feedforward_layernorm")


def edit(rotation: RotateStream, model: Model) -> None:
    """Gains become nothing, in the norm's own terms."""
    if (width := model.whole.config.hidden_size) != rotation.width:
        raise PlanMismatch("the stream", f"has {width} channels, the plan turns {rotation.width}", "plan again")
    matrix = _matrix(rotation)
    layers = [(model.layers[number], branch, _norm(model, number, branch)) for number, branch in rotation.branches]
    gains = [norm.weight.double() - _nothing(norm) + 1 for _, _, norm in layers]
    for (layer, branch, _), gain in zip(layers, gains, strict=True):
        _turn(layer, branch, gain, matrix)
    for _, _, norm in layers:
        norm.weight.fill_(_nothing(norm))
    model.turn(matrix)


def _matrix(rotation: RotateStream) -> torch.Tensor:
    """Q [C, C], float64, entry by entry as its definition says."""
    n = rotation.width
    written = f"{int(rotation.signs, 16):0{4 * len(rotation.signs)}b}"
    signs = np.array([-1.0 if bit == "1" else 1.0 for bit in written[:n]])
    turns = np.outer(np.arange(n), np.arange(n)) % n
    angles = turns * (2 * math.pi / n)
    return torch.from_numpy((np.cos(angles) + np.sin(angles)) / math.sqrt(n) * np.outer(signs, signs))


def _norm(model: Model, number: int, branch: str) -> Any:
    """The RMS norm before a branch: the one that an edit put there, or the family's own."""
    module = model.layers[number].module
    if (put := model.norms.get((number, branch))) is not None:
        return put
    norm: Any = getattr(module, _NORMS[branch], None)
    around = [name for name in _BEHIND if hasattr(module, name)]
    if norm is None or around or getattr(norm, "bias", None) is not None or "RMS" not in type(norm).__name__:
        raise PlanMismatch(type(module).__name__, f"has no RMS norm before its {branch} alone", "plan again")
    return norm


def _turn(layer: Layer, branch: str, gain: torch.Tensor, matrix: torch.Tensor) -> None:
    for role in _READERS[branch]:
        if role in layer.places:
            linear = layer.linear(role)
            linear.weight.copy_(linear.weight.double() * gain @ matrix)
    writer = layer.linear(_WRITERS[branch])
    writer.weight.copy_(matrix @ writer.weight.double())
    if writer.bias is not None:
        writer.bias.copy_(writer.bias.double() @ matrix)


def _nothing(norm: Any) -> float:
    """The weight with which a norm gives what it normed: 1, or 0 where the norm adds 1 to it."""
    asked = torch.ones_like(norm.weight)
    return 1.0 - float(_with(norm, 0.0, asked).double().mean().round())


def _with(norm: Any, weight: float, asked: torch.Tensor) -> torch.Tensor:
    kept = norm.weight.clone()
    norm.weight.fill_(weight)
    given: torch.Tensor = norm(asked)
    norm.weight.copy_(kept)
    return given
