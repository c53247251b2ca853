"""Numbers of few bits put into a plan: those that are given, or, of what it rounds to nearest, those that come out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from foldrank.edits import Edit
from foldrank.edits.base import Phase
from foldrank.edits.storage import FewBits, Numbers, StorageEdit
from foldrank.planfile.plan import Plan
from foldrank.plans.bits.walk import Names, Part
from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.rounding import FewNumbers, Grid
from foldrank.plans.simulate import apply_edits
from foldrank.sites import Site


def site_of(edit: StorageEdit) -> Site | None:
    """The single-role site that it stores; None of the head and of the table of words."""
    return next((part for part in edit.touch.writes if isinstance(part, Site)), None)


def holding(
    plan: Plan, held: Mapping[Site, tuple[Numbers, ...]], arrays: Mapping[str, np.ndarray]
) -> Plan:
    """The plan with these numbers at these sites, `arrays` those that they name; what it held there leaves."""
    edits: list[Edit] = []
    stale: set[str] = set()
    for edit in plan.edits:
        if isinstance(edit, StorageEdit) and (site := site_of(edit)) is not None and site in held:
            stale.update(edit.arrays())
            edits.append(replace(edit, held=held[site]))
        else:
            edits.append(edit)
    kept = {name: plan.arrays[name] for name in plan.arrays if name not in stale}
    return replace(plan, arrays=kept | dict(arrays), document=replace(plan.document, edits=tuple(edits)))


def nearest_held(source: Decoder, plan: Plan) -> Plan:
    """The plan with the numbers of every site that it rounds to nearest, of float32 values; itself where it holds
    all."""
    storages = {site: edit.storage for edit in plan.edits if isinstance(edit, StorageEdit) and not edit.held
                if (site := site_of(edit)) is not None}
    if not storages:
        return plan
    decoder = apply_edits([edit for edit in plan.edits if edit.phase < Phase.STORAGE], source, plan.arrays)
    names, arrays = Names(decoder.blocks, storages), dict[str, np.ndarray]()
    for block in decoder.blocks:
        for part in _parts(block, storages):
            arrays |= {name: tensor.numpy() for name, tensor in names.tensors(block, part).items()}
    return holding(plan, names.held, arrays)


def _parts(block: Block, storages: Mapping[Site, FewBits]) -> Iterator[Part]:
    """Its pairs and its other weights, each to nearest."""
    stored = {role: few for role in block.roles if (few := storages.get(Site(block.number, (role,)))) is not None}
    for roles, pair in block.pairs.items():
        if roles[0] in stored:
            yield Part(roles, tuple(_nearest(factor, stored[roles[0]]) for factor in (pair.a, pair.b)), pair)
    paired = {role for roles in block.pairs for role in roles}
    for role in stored.keys() - paired:
        yield Part((role,), (_nearest(block.weight(role), stored[role]),))


def _nearest(weight_IO: Tensor, storage: FewBits) -> FewNumbers:
    weight = weight_IO.to(torch.float32)
    return Grid.of(weight, storage).nearest(weight)
