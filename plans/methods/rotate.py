"""rotate: the residual stream in another basis, in which few bits lose less. Logits stay as they are.

QuaRot (arXiv 2404.00456), SliceGPT (2401.15024) and SpinQuant (2405.16406, its R1) turn what flows between blocks by an
orthogonal matrix: the gain g of an RMS norm goes into what reads it, W becomes Q diag(g) W there and W Q where a branch
writes. Columns that stood out are spread over all rows, so that the blocks of few bits have narrower ranges; `quantize`
rounds on the rotated model as on any other. Q = D H D, with random signs D and the discrete Hartley transform H in the
place of Hadamard matrices, which there are not of every width; it is its own inverse, so that the graph stores one. The
table of words and the head stay as they are, tied or not, for which the graph takes two products more.
"""

from __future__ import annotations

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as settings_dataclass

from foldrank.edits.base import Phase
from foldrank.edits.rotate_stream import RotateStream
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.methods import pre_rmsnorm
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.simulate import apply_edits
from foldrank.plans.simulate.pre_rmsnorm import centrable
from foldrank.plans.simulate.rotate_stream import turnable


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Settings:
    """None: the seed of the plan draws the signs."""


def run(task: Task, settings: Settings) -> Result:
    """Rotate the model. Raises SourceError where its norms do not let it be."""
    decoder = task.decoder
    width, branches = decoder.width, (decoder.having("attention"), decoder.having("mlp"))
    edit = RotateStream(width, random_signs(width, task.seed), *branches)
    return Result(apply_edits([edit], decoder, {}), (edit,), kept=1.0)


METHOD = Method("rotate", Settings, run, phase=Phase.ROTATION)


def turning(decoder: Decoder) -> tuple[str, ...]:
    """The methods that rotate the stream, in their order; none where the model's norms do not let it be."""
    if all(turnable(block) for block in decoder.blocks):
        return (METHOD.name,)
    return (pre_rmsnorm.METHOD.name, METHOD.name) if centrable(decoder) else ()


def random_signs(width: int, seed: int) -> str:
    """Of so many channels, as the edit writes them."""
    return np.packbits(np.random.default_rng(seed).integers(0, 2, width, dtype=np.uint8)).tobytes().hex()
