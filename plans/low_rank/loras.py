"""LoRA adapters of a checkpoint, by the sites that they change. Knows a decoder's modules and nothing of edits."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from foldrank.errors import SourceError
from foldrank.model.lora import read_lora
from foldrank.plans.models.block import Pair
from foldrank.plans.models.decoder import Decoder
from foldrank.sites import Site


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Adapters:
    """`path`: an adapter's folder, or several with + between them. `weights`: what each counts, with + between them
    (1 each)."""

    path: str
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.weights is not None:
            self.factors(len(self.weights.split("+")))

    def factors(self, count: int) -> tuple[float, ...]:
        """What each of so many adapters counts. Raises ValueError."""
        if self.weights is None:
            return (1.0,) * count
        try:
            found = tuple(float(text) for text in self.weights.split("+"))
        except ValueError:
            found = (math.nan,)
        if not all(map(math.isfinite, found)):
            raise ValueError(f"weights={self.weights} are not numbers with + between them, such as 1+0.5")
        if len(found) != count:
            raise ValueError(f"weights={self.weights} are {len(found)}, adapters are {count}")
        return found

    @property
    def folders(self) -> tuple[Path, ...]:
        """In order; a folder that has a + in its name is one."""
        whole = _folder(self.path)
        return (whole,) if whole.is_dir() else tuple(map(_folder, self.path.split("+")))


def pairs_of(asked: Adapters, decoder: Decoder) -> dict[Site, list[Pair]]:
    """The pairs that adapters have at each site, A times what its adapter counts. Raises SourceError where one is not
    plain LoRA, or of another model; ValueError where there are not as many weights."""
    folders = asked.folders
    found: dict[Site, list[Pair]] = {}
    for folder, weight in zip(folders, asked.factors(len(folders)), strict=True):
        for module, (a_IR, b_RO) in read_lora(folder).items():
            site = _site(decoder, module, folder)
            shape = decoder.block(site.block).size(site.roles)
            if (len(a_IR), b_RO.shape[1]) != shape:
                what = f"{module} is of {[len(a_IR), b_RO.shape[1]]}, the model has {list(shape)}"
                raise SourceError(folder, what, "give an adapter of this model, and methods that leave its shapes")
            a, b = torch.from_numpy(a_IR).to(decoder.device), torch.from_numpy(b_RO).to(decoder.device)
            found.setdefault(site, []).append(Pair(a * weight, b))
    return found


def _folder(text: str) -> Path:
    return Path(text).expanduser().absolute()


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
