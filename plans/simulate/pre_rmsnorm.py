"""pre_rmsnorm for the planner: what writes to the stream is centred, RMS norms stand in the place of LayerNorms."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from foldrank.edits.base import BRANCHES, LAST, Branch
from foldrank.edits.pre_rmsnorm import PreRmsnorm
from foldrank.errors import SourceError
from foldrank.plans.models.block import Block, widened
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.rms import RmsNorm

_WAY_OUT = "plan this model without pre_rmsnorm"


def centrable(decoder: Decoder) -> bool:
    """Whether its norms let the stream be without a mean."""
    try:
        _final(decoder)
        return all(_norms(block, post=_post(decoder)) for block in decoder.blocks)
    except SourceError:
        return False


def simulated(edit: PreRmsnorm, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder with a stream of no mean. Raises SourceError where its norms are not LayerNorms before branches."""
    branches: dict[int, list[Branch]] = {}
    for number, branch in edit.branches:
        branches.setdefault(number, []).append(branch)
    blocks = [centred(block, branches[block.number], post=_post(decoder)) for block in decoder.blocks]
    path, final = _final(decoder)
    return decoder.with_blocks(blocks).with_centring(path, RmsNorm(final.weight, final.bias, final.eps))


def centred(block: Block, branches: Iterable[Branch], *, post: bool = False) -> Block:
    """The block on a stream of no mean; products in float64, rounded once to float32. `post`: whether the model norms
    what its branches are added to."""
    norms, made = _norms(block, post=post), block
    for branch in branches:
        if (bias := block.tensors.get(f"{norms[branch]}.bias")) is not None:
            for role in set(BRANCHES[branch]) & set(block.roles) - {LAST[branch]}:
                made = made.with_bias(role, (widened(bias).double() @ block.weight(role).double()).float())
        made = made.with_weights({LAST[branch]: _without_mean(block.weight(LAST[branch]))})
        own = f"{block.family.path(LAST[branch])}.bias"
        if own in block.tensors:
            made = replace(made, tensors={**made.tensors, own: _without_mean(widened(block.tensors[own]))})
    module = copy.copy(block.module)
    module._modules = dict(module._modules)
    for path in set(norms.values()):
        old: Any = module.get_submodule(path)
        setattr(module, path, RmsNorm(old.weight.detach(), None, old.eps))
    kept = {name: tensor for name, tensor in made.tensors.items() if name.removesuffix(".bias") not in norms.values()}
    return replace(made, module=module, tensors=kept)


def _post(decoder: Decoder) -> bool:
    return getattr(decoder.model.config, "do_layer_norm_before", True) is False


def _without_mean(rows: Tensor) -> Tensor:
    wide = rows.double()
    return (wide - wide.mean(-1, keepdim=True)).float()


def _norms(block: Block, *, post: bool) -> dict[Branch, str]:
    """The path of the norm before each branch, of one that both read twice."""
    kind = type(block.module).__name__
    found = {branch: path for path, branch in block.family.norms.items() if f"{path}.weight" in block.tensors}
    names = [path for path in block.family.norms if f"{path}.weight" in block.tensors]
    if rms := [path for path in names if not isinstance(block.module.get_submodule(path), nn.LayerNorm)]:
        what = f"{rms[0]} of {kind} takes no mean away, so there is nothing to be done"
        raise SourceError(f"block {block.number}", what, _WAY_OUT)
    if post or len(names) != len(found) or not found:
        what = f"{kind} has no LayerNorm before each branch: what norms the stream itself (Post-LN) gives it a mean"
        raise SourceError(f"block {block.number}", what, _WAY_OUT)
    return {branch: found.get(branch) or next(iter(found.values())) for branch in BRANCHES}


def _final(decoder: Decoder) -> tuple[str, nn.LayerNorm]:
    """The LayerNorm behind the blocks, and where it is."""
    found = [(path, module) for path, module in decoder.model.named_modules()
             if isinstance(module, nn.LayerNorm) and not path.startswith(f"{decoder.family.layers}.")]
    if len(found) != 1 or found[0][1].weight is None:
        what = f"has {len(found)} LayerNorms outside of its blocks, where one with a gain is to stand behind them"
        raise SourceError(type(decoder.model).__name__, what, _WAY_OUT)
    return found[0]
