"""adapter: a LoRA adapter of the checkpoint (`adapter:path=DIR`, as PEFT writes it) stands beside what is there.

Each of its pairs becomes an `add_low_rank` edit: y = x W + (x A) B, A times alpha / r; the base's weights are not
touched, so they may be stored in few bits before. An adapter is applied as it is: it was made for the checkpoint, so
what other methods changed before is not made up for. Source: LoRA (arXiv 2106.09685).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from foldrank.edits.add_low_rank import AddLowRank
from foldrank.edits.base import Phase
from foldrank.errors import SourceError
from foldrank.model.lora import Array, read_lora
from foldrank.plans.low_rank.factoring import replaced_digests
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.simulate import apply_edits
from foldrank.sites import Site


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Settings:
    """`path`: the adapter's folder."""

    path: str


def run(task: Task, settings: Settings) -> Result:
    """Read it and put its pairs beside. Raises SourceError where it is not plain LoRA, or of another model."""
    folder = Path(settings.path).expanduser().absolute()
    edits: list[AddLowRank] = []
    arrays: dict[str, np.ndarray] = {}
    for module, pair in read_lora(folder).items():
        site = _site(task.decoder, module, folder)
        block = task.decoder.block(site.block)
        shape = block.size(site.roles)
        if (len(pair[0]), pair[1].shape[1]) != shape:
            what = f"{module} is of {[len(pair[0]), pair[1].shape[1]]}, the model has {list(shape)}"
            raise SourceError(folder, what, "give an adapter of this model, and methods that leave its shapes")
        a, b = _reduced(*pair)
        names = f"{site}.adapter.A", f"{site}.adapter.B"
        edits.append(AddLowRank(site, shape, len(b), names, replaced_digests(task.source.blocks, block, site.roles)))
        arrays |= dict(zip(names, (a, b), strict=True))
    return Result(apply_edits(edits, task.decoder, arrays), tuple(edits), kept=1.0, arrays=arrays)


def _site(decoder: Decoder, module: str, folder: Path) -> Site:
    """The site of a module: one of the blocks' linears that is still there."""
    family = decoder.family
    number, _, path = module.removeprefix(f"{family.layers}.").partition(".")
    if not (module.startswith(f"{family.layers}.") and number.isdecimal() and path in family.linears):
        known = ", ".join(path.rpartition(".")[2] for path in family.linears)
        raise SourceError(folder, f"changes {module}, which is no linear map of a block", "merge it into its base with "
                          f"peft and give the merged model; what is read are {known}")
    roles = family.linears[path]
    block = next((block for block in decoder.blocks if block.number == int(number)), None)
    if block is None or not set(roles) <= set(block.roles):
        raise SourceError(folder, f"changes {module}, which is not there", "give an adapter of this model, and methods "
                          "that leave its blocks")
    return Site(block.number, roles)


def _reduced(a_IR: Array, b_RO: Array) -> tuple[Array, Array]:
    """The pair, of full rank at most: the same product."""
    full = min(len(a_IR), b_RO.shape[1])
    if len(b_RO) <= full:
        return a_IR, b_RO
    product, one = a_IR @ b_RO, np.eye(full, dtype=np.float32)
    return (product, one) if b_RO.shape[1] == full else (one, product)


METHOD = Method("adapter", Settings, run, phase=Phase.BESIDE)
