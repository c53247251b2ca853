"""Plans without calibration, for random checkpoints: they say what to cut, not what is best to cut. Speed only.

Knows the weight names of Llama checkpoints (`random_checkpoint.py`). Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import numpy as np

from foldrank.digests import WeightDigest, in_threads
from foldrank.edits import Edit
from foldrank.edits.base import BRANCHES, Branch
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank, rank_limit
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.edits.slice_mlp import Channels, SliceMlp
from foldrank.edits.storage import FewBits
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.document import Keep, PlanDocument, Source, Step
from foldrank.planfile.plan import Plan
from foldrank.sites import PACKED, ROLES, Site
from foldrank.versions import versions

RANK_MULTIPLE = 16
"""Ranks are rounded down to this, as for a CPU."""

_MODULES = {role: f"self_attn.{role}_proj" for role in "qkvo"} | {r: f"mlp.{r}_proj" for r in ("gate", "up", "down")}
_SITES = (PACKED["qkv"], ("o",), PACKED["gate_up"], ("down",))
"""Packed as `dipsvd` packs them by default: what reads one input shares one A."""


def nothing(checkpoint: Checkpoint) -> Plan:
    """A plan without edits."""
    return _plan(checkpoint, (), {}, {}, Step("nothing", {}, Keep(None, 1.0)))


def in_few_bits(plan: Plan, checkpoint: Checkpoint, *, bits: Literal[4, 8] = 4) -> Plan:
    """The plan, and what it leaves stored in few bits, blocks of 32, activations in int8."""
    # `fold_plan` gives a merged block the upper's weights
    upper = {fold.into: fold.into + 1 for fold in plan.of(FoldBlocks)}
    sites = [Site(block, (role,)) for block in plan.surviving_blocks for role in ROLES]

    def edit(site: Site) -> QuantizeWeight:
        held = weight(checkpoint, upper.get(site.block, site.block), site.role)
        shape = (held.shape[0], held.shape[1])
        return QuantizeWeight(site, shape, FewBits(bits, 32, True, 4), (WeightDigest.of(held),))

    step = Step("quantize", {"bits": bits}, Keep(None, 1.0))
    document = plan.document
    edits = (*document.edits, *in_threads(edit, sites))
    return replace(plan, document=replace(document, steps=(*document.steps, step), edits=edits))


def fold_plan(checkpoint: Checkpoint, folds: int) -> Plan:
    """Fold so many pairs of neighbours, evenly spread; each merged block takes the upper one's projections."""
    edits = _folds(checkpoint, folds)
    step = Step("fold_neighbours", {"folds": folds}, Keep(None, 1 - folds / checkpoint.blocks))
    return _plan(checkpoint, edits, {}, _digests(checkpoint, edits), step)


def slice_plan(checkpoint: Checkpoint, keep: float, *, multiple: int = RANK_MULTIPLE) -> Plan:
    """Every MLP keeps its first channels, at most this share of them, in whole multiples."""
    def edit(block: int) -> SliceMlp:
        parts = [weight(checkpoint, block, role) for role in BRANCHES["mlp"]]
        width, out = parts[-1].shape
        channels = Channels(tuple(range(int(keep * width) // multiple * multiple)))
        return SliceMlp(block, (width, out), channels, None, None, tuple(map(WeightDigest.of, parts)))

    edits = tuple(in_threads(edit, range(checkpoint.blocks)))
    cut = 1 - len(edits[0].channels) / edits[0].shape[0]
    inside, whole = (sum(weight(checkpoint, 0, role).size for role in roles) for roles in (BRANCHES["mlp"], ROLES))
    kept = 1 - cut * inside / whole
    return _plan(checkpoint, edits, {}, {}, Step("first_channels", {"keep": keep}, Keep(keep, kept)))


def drop_plan(checkpoint: Checkpoint, every: int) -> Plan:
    """Of every so many blocks the first loses its attention, the last its MLP."""
    places: dict[Branch, int] = {"attention": 0, "mlp": every - 1}
    edits = tuple(DropBranch(block, branch) for block in range(checkpoint.blocks)
                  for branch, place in places.items() if block % every == place)
    gone = sum(weight(checkpoint, part.block, part.role).size for edit in edits for part in edit.touch.removes
               if isinstance(part, Site))
    whole = sum(weight(checkpoint, block, role).size for block in range(checkpoint.blocks) for role in ROLES)
    step = Step("drop_evenly", {"every": every}, Keep(None, 1 - gone / whole))
    return _plan(checkpoint, edits, {}, _digests(checkpoint, edits), step)


def low_rank_plan(
    checkpoint: Checkpoint, keep: float, seed: int, *, folds: int = 0, multiple: int = RANK_MULTIPLE
) -> Plan:
    """Replace every weight of every block by random factors of a rank that keeps at most `keep` of its numbers.

    `folds`: as `fold_plan` before that. `multiple`: ranks are rounded down to it.
    """
    merged = _folds(checkpoint, folds) if folds else ()
    upper = {edit.into: edit.into + 1 for edit in merged}
    gone = set(upper.values())
    rng, arrays = np.random.default_rng(seed), {}
    edits: list[Edit] = [*merged]
    before = after = 0
    for site in (Site(block, roles) for block in range(checkpoint.blocks) if block not in gone for roles in _SITES):
        parts = [weight(checkpoint, upper.get(part.block, part.block), part.role) for part in site.parts]
        shape = (parts[0].shape[0], sum(part.shape[1] for part in parts))
        rank = int(keep * shape[0] * shape[1] / sum(shape)) // multiple * multiple
        before += shape[0] * shape[1]
        if not 1 <= rank <= rank_limit(*shape):
            after += shape[0] * shape[1]
            continue
        after += rank * sum(shape)
        names = (f"{site}.A", f"{site}.B")
        arrays[names[0]] = _noise(rng, (shape[0], rank))
        arrays[names[1]] = _noise(rng, (rank, shape[1]))
        edits.append(LowRank(site, shape, rank, names, tuple(WeightDigest.of(part) for part in parts)))
    step = Step("random_low_rank", {"keep": keep, "seed": seed, "folds": folds}, Keep(keep, after / before))
    return _plan(checkpoint, tuple(edits), arrays, _digests(checkpoint, merged), step)


def _folds(checkpoint: Checkpoint, folds: int) -> tuple[FoldBlocks, ...]:
    if not 1 <= folds <= checkpoint.blocks // 2:
        raise ValueError(f"{folds} pairs of neighbours do not exist in {checkpoint.blocks} blocks")
    lows = [i * checkpoint.blocks // folds for i in range(folds)]
    return tuple(FoldBlocks(low, (low, low + 1), {low: 0.0, low + 1: 1.0}) for low in lows)


def _digests(checkpoint: Checkpoint, edits: Iterable[Edit]) -> dict[str, WeightDigest]:
    """Of every projection that edits read."""
    sites = sorted({part for edit in edits for part in edit.touch.reads if isinstance(part, Site)})
    found = in_threads(lambda site: WeightDigest.of(weight(checkpoint, site.block, site.role)), sites)
    return dict(zip(map(str, sites), found, strict=True))


def weight(checkpoint: Checkpoint, block: int, role: str) -> np.ndarray:
    """W [in, out] of one projection, read from its file."""
    tensor = checkpoint.tensors[f"model.layers.{block}.{_MODULES[role]}.weight"]
    stored = np.fromfile(tensor.path, tensor.dtype, int(np.prod(tensor.shape)), offset=tensor.start)
    return stored.reshape(tensor.shape).T


def _noise(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[0]))


def _plan(
    checkpoint: Checkpoint, edits: tuple[Edit, ...], arrays: dict[str, np.ndarray], digests: dict[str, WeightDigest],
    step: Step,
) -> Plan:
    source = Source(
        checkpoint.name, checkpoint.config_sha256, checkpoint.architecture, checkpoint.blocks, digests
    )
    document = PlanDocument(
        source=source, calibration=None, steps=(step,), predicted={"keep": step.keep.reached}, versions=versions(),
        edits=edits,
    )
    return Plan(document, arrays)
