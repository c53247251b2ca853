"""rotate_stream for the planner: gains folded into what reads the stream, and all blocks turned; its ends are not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from foldrank.edits.base import BRANCHES, LAST, Branch
from foldrank.edits.rotate_stream import RotateStream
from foldrank.errors import SourceError
from foldrank.plans.models.block import Block, widened
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.rms import RmsNorm

BEFORE: Mapping[str, Branch] = {"input_layernorm": "attention", "post_attention_layernorm": "mlp"}
"""The norms of a block that can be turned: one before each branch, none behind."""
_WAY_OUT = "plan this model without rotate"
_FIRST = "plan pre_rmsnorm before rotate: it makes RMS norms of LayerNorms before branches"


def simulated(edit: RotateStream, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder with its stream rotated. Raises SourceError where its blocks are not of a kind that can be."""
    turn = Turn.of(edit, decoder.device)
    branches: dict[int, list[Branch]] = {}
    for number, branch in edit.branches:
        branches.setdefault(number, []).append(branch)
    blocks = [turned(block, branches[block.number], turn) for block in decoder.blocks]
    matrix = turn(torch.eye(edit.width, dtype=torch.float64, device=decoder.device), 0)
    return decoder.with_blocks(blocks).with_rotation(matrix.float())


@dataclass(frozen=True)
class Turn:
    """Multiplies by Q = D H D without making it: H x is the real part of x's Fourier transform, less the imaginary."""

    signs_C: Tensor

    @classmethod
    def of(cls, edit: RotateStream, device: torch.device) -> Turn:
        """With the edit's signs, float64."""
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(edit.signs), np.uint8))[: edit.width]
        return cls(torch.from_numpy(1.0 - 2.0 * bits).to(device))

    def __call__(self, matrix: Tensor, dim: int) -> Tensor:
        """Q M (`dim` 0) or M Q (`dim` 1), float64: Q is symmetric."""
        signs = self.signs_C if dim else self.signs_C[:, None]
        found = torch.fft.fft(signs * matrix.double(), dim=dim, norm="ortho")
        return signs * (found.real - found.imag)


def turned(block: Block, branches: Iterable[Branch], turn: Turn) -> Block:
    """The block on a stream turned by Q; products in float64, rounded once to float32."""
    norms = _norms(block)
    weights: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    for branch in branches:
        name, rest = norms[branch]
        gain = widened(block.tensors[name]).double() + rest
        for role in BRANCHES[branch]:
            if role in block.roles:
                old = block.weight(role)
                weights[role] = (turn(old, 1) if role == LAST[branch] else turn(gain[:, None] * old, 0)).float()
        bias = f"{block.family.path(LAST[branch])}.bias"
        if bias in block.tensors:
            tensors[bias] = turn(block.tensors[bias][None], 1)[0].float()
        tensors[name] = torch.full_like(block.tensors[name], 1 - rest)
    made = block.with_weights(weights)
    return replace(made, tensors={**made.tensors, **tensors})


def turnable(block: Block) -> bool:
    """Whether the stream can be rotated around the block."""
    try:
        return bool(_norms(block))
    except SourceError:
        return False


def _norms(block: Block) -> dict[Branch, tuple[str, float]]:
    """Of each branch its norm's tensor, and what the norm adds to it before it multiplies (1 in Gemma). Where another
    edit put RMS norms there, one alone serves both branches."""
    found = {path: branch for path, branch in block.family.norms.items() if f"{path}.weight" in block.tensors}
    modules = {path: block.module.get_submodule(path) for path in found}
    put = bool(found) and all(isinstance(module, RmsNorm) for module in modules.values())
    norms: dict[Branch, tuple[str, float]] = {}
    for path, branch in found.items() if put or found == BEFORE else ():
        rest = next(_rests(modules[path], block.tensors[f"{path}.weight"]), None)
        if rest is not None and f"{path}.bias" not in block.tensors:
            norms[branch] = f"{path}.weight", rest
    if put and len(norms) == 1:
        norms = dict.fromkeys(BRANCHES, *norms.values())
    if len(norms) < len(BRANCHES):
        what = f"{type(block.module).__name__} is not two branches with one RMS norm before each and none behind"
        way_out = _FIRST if any(isinstance(module, nn.LayerNorm) for module in modules.values()) else _WAY_OUT
        raise SourceError(f"block {block.number}", f"{what}, so the stream cannot be rotated", way_out)
    return norms


def _rests(norm: nn.Module, weight_C: Tensor) -> Iterator[float]:
    """What makes the gain of an RMS norm 1 less: 0, or 1 where the norm adds that to its weight. Asked of the module:
    without a gain it gives a multiple of what it is given."""
    asked = torch.linspace(-1, 2, len(weight_C), dtype=torch.float32, device=weight_C.device)[None]
    for rest in (0.0, 1.0):
        given = functional_call(norm, {"weight": torch.full_like(asked[0], 1 - rest)}, (asked,))
        if torch.allclose(given, asked / asked.square().mean().sqrt(), rtol=1e-3, atol=1e-3):
            yield rest
