"""Round a model's weights from the bottom up, each on what the model as rounded so far gives it.

Within a block in the order in which it applies them: q, k, v; then o on what the rounded ones give; gate and up; down.
`toward`: how far a weight aims, on those inputs, from what it would give (0) to what it gives in the model as it was
(1): W + toward H^-1 X^T (Y - X) W, X the inputs now, Y those before, H = X^T X. With 1, rounding it is GPTAQ's aim
(arXiv 2504.02692). What rounding lost at a site may be made up for by a pair beside it (`correcting.py`), which what
comes behind sees too. A weight that several blocks read is rounded at the first of them, on what that is given.
Cost: about one run of the model over the text, its Grams, and what `gptq` costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from foldrank.edits.storage import FewBits, Numbers
from foldrank.plans.bits.careful import Care, solved
from foldrank.plans.bits.correcting import correction, names_of
from foldrank.plans.bits.inputs import Stages, all_inputs, sums
from foldrank.plans.bits.tokens import Tokens
from foldrank.plans.low_rank.grams import input_of, watched
from foldrank.plans.method import Task
from foldrank.plans.models.block import Block, Pair, Roles
from foldrank.plans.models.packing import Packed, packed, unpacked
from foldrank.plans.models.rounding import FewNumbers
from foldrank.plans.shelf import Finding, Shelf, States, walk
from foldrank.sites import Site

NONE: Final[Mapping[Site, int]] = MappingProxyType({})


@dataclass(frozen=True)
class Rounded:
    """Numbers of every site: arrays by name, those of pairs beside too (`names_of`), and per site the names of its
    numbers, of a weight or of A and B."""

    arrays: Mapping[str, np.ndarray]
    held: Mapping[Site, tuple[Numbers, ...]]


@dataclass(frozen=True)
class Rounding:
    """How weights are rounded. `sequential`: on inputs of the model as rounded so far, or else as it was. `tokens`: how
    much each counts (`tokens.py`)."""

    care: Care = field(default_factory=Care)
    toward: float = 0.0
    sequential: bool = True
    tokens: Tokens = "uniform"

    def of(self, task: Task, storages: Mapping[Site, FewBits], ranks: Mapping[Site, int] = NONE) -> Rounded:
        """Weights and pairs of the task's model at single-role sites, each as it is to be stored; roles of a pair
        alike. Sites that are not named stay floats. `ranks`: of pairs beside sites whose roles read one input."""
        decoder, names = task.decoder, Names(task.decoder.blocks, storages)
        stage = f"{self} {sorted((str(site), str(few.in_full())) for site, few in storages.items())}"
        stage += f" beside {sorted((str(site), rank) for site, rank in ranks.items())}" if ranks else ""
        bases = task.shelf.under(f"bases {stage}")

        def step(block: Block, states: States) -> tuple[Finding, States]:
            hidden, original = states["hidden"], states.get("original")
            aims, after = (None, None) if original is None else all_inputs(decoder, block, original)
            current, found, stages = block, dict[str, Tensor](), Stages(decoder, hidden)
            weighed = [*stages.weights(block)] if self.tokens == "attention" else None
            for role in watched(block):
                given = stages.inputs(current if self.sequential else block, role)
                gram, drift = sums(given, None if aims is None else aims[role], weighed)
                roles = tuple(other for other in block.roles if input_of(block, other) == role)
                for part in self._group(block, roles, storages, (gram, drift), bases, names):
                    found |= names.tensors(block, part)
                    current = part.put(current)
                for site in (site for site in ranks if site.block == block.number and site.roles[0] in roles):
                    pair = correction(self._lost(site.roles, block, current, (gram, drift)), gram, ranks[site])
                    found |= dict(zip(names_of(site), (pair.a, pair.b), strict=True))
                    current = current.with_beside({site.roles: pair})
            outputs = {} if after is None else {"original": after}
            return Finding(found), {"hidden": stages.output(current if self.sequential else block), **outputs}

        def start() -> States:
            hidden = decoder.embed(task.ids)
            return {"hidden": hidden, **({"original": hidden} if self.toward else {})}

        with torch.no_grad():
            findings = walk(decoder.blocks, task.shelf.under(f"bits {stage}"), start, step, stage="rounding",
                            device=decoder.device, progress=task.progress)
        arrays = {name: tensor.cpu().numpy() for found in findings.values() for name, tensor in found.tensors.items()}
        return Rounded(arrays, names.held)

    def _aimed(self, weight: Tensor, gram: Tensor, drift: Tensor | None) -> Tensor:
        """What a weight is to give, as a weight on the inputs as they are now."""
        return weight if drift is None else weight + self.toward * solved(gram, drift @ weight.double()).float()

    def _lost(self, roles: Roles, block: Block, rounded: Block, seen: tuple[Tensor, Tensor | None]) -> Tensor:
        """What roles are to give, less what they give as rounded [in, out]."""
        return torch.cat([self._aimed(block.weight(role), *seen) - rounded.weight(role) for role in roles], dim=1)

    def _group(
        self, block: Block, roles: Roles, storages: Mapping[Site, FewBits], seen: tuple[Tensor, Tensor | None],
        bases: Shelf, names: Names,
    ) -> Iterator[Part]:
        """The weights that are stored alike, side by side, and the pairs, that read one input."""
        gram, drift = seen
        stored = {role: few for role in roles if (few := storages.get(Site(block.number, (role,)))) is not None}
        pairs = {held: pair for held, pair in block.pairs.items() if set(held) <= set(roles)}
        single = {role: few for role, few in stored.items() if not any(role in held for held in pairs)}
        shared = {role: names.held[Site(block.number, (role,))][0].numbers for role in single if role in block.shared}
        known = {role: finding for role, name in shared.items() if (finding := bases.get(name)) is not None}
        for role, finding in known.items():
            yield Part((role,), (_read(finding, single[role], len(block.weight(role))),))
        for few in dict.fromkeys(few for role, few in single.items() if role not in known):
            alike = tuple(role for role, storage in single.items() if storage == few and role not in known)
            widths = [block.weight(role).shape[1] for role in alike]
            whole = torch.cat([block.weight(role) for role in alike], dim=1)
            made = self.care.rounded(self._aimed(whole, gram, drift), gram, few)
            for role, stop, width in zip(alike, accumulate(widths), widths, strict=True):
                if role in shared:
                    bases.put(shared[role], Finding(_named("a", packed(made.columns(stop - width, stop)))))
            yield Part(alike, (made,))
        for held, pair in pairs.items():
            if held[0] not in stored:
                continue
            storage = stored[held[0]]
            basis = bases.get(pair.shared) if pair.shared else None
            given = None if basis is None else _read(basis, storage, len(pair.a))
            a, b = self.care.rounded_pair(pair.a, pair.b, gram, storage, given=given)
            if pair.shared and basis is None:
                bases.put(pair.shared, Finding(_named("a", packed(a))))
            yield Part(held, (a, b), pair)


@dataclass(frozen=True)
class Part:
    """What was rounded together: roles side by side, their numbers, or those of the pair's A and B."""

    roles: Roles
    numbers: tuple[FewNumbers, ...]
    pair: Pair | None = None

    def put(self, block: Block) -> Block:
        """The block with it."""
        if self.pair is not None:
            a, b = (found.values for found in self.numbers)
            return block.with_pairs({self.roles: Pair(a, b, self.pair.shared)})
        widths = [block.weight(role).shape[1] for role in self.roles]
        columns = self.numbers[0].values.split(widths, dim=1)
        return block.with_weights(dict(zip(self.roles, columns, strict=True)))


class Names:
    """What numbers are called in the plan: those of a weight that several blocks read and store alike, by the first."""

    def __init__(self, blocks: tuple[Block, ...], storages: Mapping[Site, FewBits]) -> None:
        first: dict[tuple[str, FewBits], Site] = {}
        self.held: dict[Site, tuple[Numbers, ...]] = {}
        for block in blocks:
            for site in (Site(block.number, (role,)) for role in block.roles):
                if (few := storages.get(site)) is not None:
                    name = block.shared.get(site.role)
                    owner = site if name is None else first.setdefault((f"{name} {site.role}", few), site)
                    self.held[site] = tuple(_numbers(name, few.symmetric) for name in _matrices(block, site, owner))

    def tensors(self, block: Block, part: Part) -> dict[str, Tensor]:
        """What is rounded, as MatMulNBits reads it, by name."""
        found: dict[str, Tensor] = {}
        start = 0
        for role in part.roles:
            stop = start + block.weight(role).shape[1]
            named = self.held[Site(block.number, (role,))]
            if part.pair is not None:
                found |= _named(named[0].numbers.removesuffix(".numbers"), packed(part.numbers[0]))
            columns = part.numbers[-1].columns(start, stop)
            found |= _named(named[-1].numbers.removesuffix(".numbers"), packed(columns))
            start = stop
        return found


def _matrices(block: Block, site: Site, owner: Site) -> tuple[str, ...]:
    """What the weight is called, by who owns it, or the pair's A and B."""
    for roles, pair in block.pairs.items():
        if site.role in roles:
            return pair.shared or f"{Site(block.number, roles)}.A", f"{site}.B"
    return (str(owner),)


def _numbers(name: str, symmetric: bool) -> Numbers:
    return Numbers(f"{name}.numbers", f"{name}.scales", None if symmetric else f"{name}.zeros")


def _named(name: str, held: Packed) -> dict[str, Tensor]:
    parts = {"numbers": held.numbers, "scales": held.scales, "zeros": held.zeros}
    return {f"{name}.{part}": torch.from_numpy(np.array(array)) for part, array in parts.items() if array is not None}


def _read(finding: Finding, storage: FewBits, rows: int) -> FewNumbers:
    arrays = {name: tensor.numpy() for name, tensor in finding.tensors.items()}
    return unpacked(Packed(arrays["a.numbers"], arrays["a.scales"], arrays.get("a.zeros")), storage, rows)
