"""What recovery may change of a plan's stored arrays, as parameters that leave them as they are until they are trained.

    factors   every matrix the plan stores at a site (A and B of pairs, there or beside, replaced weights, what blocks
              share once for all of them) is trained as it is, and so are A and B of pairs for head and table of words
    sliced    gate, up and down of every MLP that a plan narrows, whatever stands there: what the cut left, trained as
              it is, which is how FLAP's and Minitron's narrower MLPs are repaired too (arXiv 2407.14679)
    lora      every stored or dense matrix M becomes M + 2 P Q, P Q of rank 8, and is merged back (arXiv 2106.09685)
    middle    NLoRA's IntTune: of every pair A B an r x r matrix M between the two, A M B, alone; M is the identity at
              the start and is folded into B (arXiv 2502.14482; here A B is the plan's own pair, not Nystroem's)
    diagonal  KaSA: the same with a diagonal D, A D B, r numbers a pair, folded into the rows of B (arXiv 2412.06071;
              without its regularisers, the plan's truncation stands for its own)
    scales    PEQA: of what is stored in few bits the numbers stay, and every block's scale s becomes s g, g a number
              that is 1 at the start, W = s g (q - z); zero points stay (arXiv 2305.14152; EfficientQAT's end-to-end
              phase trains step sizes so too, arXiv 2407.11062). It trains what was rounded, as it is
    norms     PERP: the gains of a block's norms, y = (x * s) W, which is the same as x (diag(s) W), so the trained
              gains are written into the weights that read the norm, and a plan needs no edit of its own for them; and
              the biases that the plan adds (arXiv 2312.15230)

All fold back into the plan's arrays exactly, but for rounding in float32 (`scales`: bit for bit). Knows matrices by
name. Knows nothing of losses or text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foldrank.plans.training.stored import Matrix, Stored
from foldrank.sites import Site

Kind = Literal["factors", "sliced", "lora", "middle", "diagonal", "scales", "norms"]
RANK, SCALE = 8, 2.0
"""Of LoRA: rank 8 and alpha 16, as SLM's released recovery has them."""

RATES: dict[Kind, float] = {
    "factors": 1e-3, "sliced": 8e-5, "lora": 2e-3, "middle": 2e-3, "diagonal": 1e-2, "scales": 2e-3, "norms": 1e-2,
}
"""Learning rate of AdamW at its peak. `sliced`: of SmolLM2 at 0.8 of its block weights, in batches of two windows, at
half of this rate, perplexity over dense went from 1.127 to 1.095 in 102 steps; at 1.5e-4, where the held-out loss rose
at first, to 1.124 in 59."""

DENSE: frozenset[Kind] = frozenset({"sliced", "lora", "norms"})
"""Kinds that may train weights which the plan leaves as they are, too."""

ROUNDED: frozenset[Kind] = frozenset({"scales"})
"""Kinds that train what is stored in few bits as it was rounded; the others train what is rounded anew afterwards."""

_NORMED = ("q", "k", "v"), ("gate", "up")
"""Roles that read what a block's first and second norm give."""

_MLP = ("gate", "up", "down")


@dataclass(frozen=True)
class Adapter:
    """`parameters`: what is trained, by name. `matrix`: any stored array, made of them; `changed` names those that
    change. `blocks`: the source numbers of the blocks that each parameter has to do with, none for head and table of
    words. `arrays`: what the plan is to
    hold under each of the `changed` names: the matrix, where it does not hold its numbers."""

    parameters: Mapping[str, Tensor]
    matrix: Matrix
    changed: frozenset[str]
    blocks: Mapping[str, frozenset[int]]
    arrays: Mapping[str, Callable[[], Tensor]]

    def apply(self) -> dict[str, Tensor]:
        """The arrays that change, as they are now."""
        return {name: self.arrays[name]() for name in sorted(self.changed)}


def adapter(kind: Kind, stored: Stored, generator: torch.Generator) -> Adapter:
    """Parameters that leave the model as it is until they are trained. Raises ValueError where there are none."""
    make: Mapping[Kind, Callable[[Stored, torch.Generator], _Parts]] = {
        "factors": _factors, "sliced": _sliced, "lora": _lora, "middle": _middle, "diagonal": _diagonal,
        "scales": _scales, "norms": _norms,
    }
    parts = make[kind](stored, generator)
    if not parts:
        raise ValueError(f"recover {kind}: {_MISSING[kind]}; take {_INSTEAD[kind]}")
    users = {name: {site.block for site in sites} for name, sites in stored.users.items()}
    users |= {name: {site.block} for name, site in stored.biases.items()}
    users |= {name: set() for names in stored.ends.values() for name in names}
    parameters: dict[str, Tensor] = {}
    blocks: dict[str, frozenset[int]] = {}
    for array, part in parts.items():
        for name, parameter in part.trained.items():
            parameters[name] = parameter.requires_grad_()
            blocks[name] = blocks.get(name, frozenset()) | users[array]

    def matrix(name: str) -> Tensor:
        return parts[name].made() if name in parts else stored.matrix(name)

    arrays = {name: part.array or part.made for name, part in parts.items()}
    return Adapter(parameters, matrix, frozenset(parts), blocks, arrays)


@dataclass(frozen=True)
class _Part:
    """Parameters by name, the matrix that is made of them, and the plan's array, where that is another."""

    trained: Mapping[str, Tensor]
    made: Callable[[], Tensor]
    array: Callable[[], Tensor] | None = None


_Parts = dict[str, _Part]
"""By the name of the array."""

_NO_PAIRS, _OTHERS = "the plan has no pairs", "factors, sliced, lora or norms"
_MISSING: dict[Kind, str] = {
    "factors": "the plan stores nothing that it could train", "sliced": "the plan narrows no MLP",
    "lora": "no block is left", "middle": _NO_PAIRS, "diagonal": _NO_PAIRS,
    "scales": "the plan stores no weight in few bits", "norms": "no weight reads a norm alone",
}
_INSTEAD: dict[Kind, str] = {
    "factors": "sliced, lora or norms", "sliced": "factors, lora or norms", "lora": "norms",
    "middle": _OTHERS, "diagonal": _OTHERS, "scales": _OTHERS, "norms": "lora",
}


def _factors(stored: Stored, _generator: torch.Generator) -> _Parts:
    around = (name for names in stored.ends.values() for name in names)
    return {name: _itself(stored, name) for name in dict.fromkeys((*stored.names(), *around))}


def _sliced(stored: Stored, _generator: torch.Generator) -> _Parts:
    narrowed = [names for site, names in stored.factors.items() if set(site.roles) <= set(_MLP)
                and _narrower(stored, site)]
    return {name: _itself(stored, name) for names in narrowed for name in names}


def _narrower(stored: Stored, site: Site) -> bool:
    shapes = (decoder.block(site.block).shapes for decoder in (stored.folded, stored.source))
    path = stored.source.family.path(site.roles[0])
    return len({shape[f"{path}.weight"] for shape in shapes}) > 1


def _itself(stored: Stored, name: str) -> _Part:
    matrix = stored.matrix(name).clone()
    return _Part({name: matrix}, lambda: matrix)


def _lora(stored: Stored, generator: torch.Generator) -> _Parts:
    def part(name: str) -> _Part:
        shape, device = stored.matrix(name).shape, stored.source.device
        p, q = _update(shape[0], shape[1], generator, device)
        return _Part({f"{name}.P": p, f"{name}.Q": q}, lambda: stored.matrix(name) + SCALE * p @ q)

    return {name: part(name) for name in stored.names()}


def _update(rows: int, columns: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """P random, Q zero: P Q is zero at the start."""
    rank = min(RANK, rows, columns)
    p = torch.randn(rows, rank, generator=generator).to(device) / rows**0.5
    return p, torch.zeros(rank, columns, device=device)


def _middle(stored: Stored, _generator: torch.Generator) -> _Parts:
    def part(name: str) -> _Part:
        b = stored.matrix(name)
        between = torch.eye(len(b), device=b.device)
        return _Part({f"{name}.middle": between}, lambda: between @ b)

    return {name: part(name) for name in _seconds(stored)}


def _diagonal(stored: Stored, _generator: torch.Generator) -> _Parts:
    def part(name: str) -> _Part:
        b = stored.matrix(name)
        scales = torch.ones(len(b), device=b.device)
        return _Part({f"{name}.diagonal": scales}, lambda: scales[:, None] * b)

    return {name: part(name) for name in _seconds(stored)}


def _seconds(stored: Stored) -> list[str]:
    """B of every pair: no two sites share one, as they may an A."""
    return [names[1] for names in (*stored.factors.values(), *stored.beside.values()) if names[1:]]


def _scales(stored: Stored, _generator: torch.Generator) -> _Parts:
    def part(name: str) -> _Part:
        few = stored.few[name]
        scales, gains = few.grid.scales_GO, torch.ones_like(few.grid.scales_GO)
        return _Part({name: gains}, lambda: few.scaled(scales * gains).values, lambda: (scales * gains).T)

    return {name: part(name) for name in stored.few}


def _norms(stored: Stored, _generator: torch.Generator) -> _Parts:
    gains: dict[tuple[int, int], Tensor] = {}
    parts: _Parts = {}
    for site, (name, *_) in (*stored.factors.items(), *stored.beside.items()):
        for norm, roles in enumerate(_NORMED):
            if set(site.roles) <= set(roles):
                if len(stored.users[name]) > 1:
                    raise ValueError(f"recover norms: {name} is shared by several blocks; take factors or lora")
                rows = len(stored.matrix(name))
                gain = gains.setdefault((site.block, norm), torch.ones(rows, device=stored.source.device))
                parts[name] = _scaled(stored, name, f"block.{site.block:02d}.norm.{norm}", gain)
    return parts | {name: _itself(stored, name) for name in stored.biases}


def _scaled(stored: Stored, name: str, called: str, gain: Tensor) -> _Part:
    return _Part({called: gain}, lambda: gain[:, None] * stored.matrix(name))
