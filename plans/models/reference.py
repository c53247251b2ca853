"""The independent reference: a plan applied to the checkpoint in PyTorch, to prove graphs against.

Written without the planner's view of a model and without the passes: it loads the checkpoint anew, does the fold
arithmetic itself in float64, and leaves every pair as two Linears. Norms and rotary tables keep the precision the
model family gives them (float32 inside), also in a float64 reference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from foldrank.digests import WeightDigest
from foldrank.edits import FoldBlocks, LowRank, QuantizeHead, QuantizeWeight, ReplaceWeight
from foldrank.errors import PlanMismatch
from foldrank.planfile import Plan
from foldrank.plans.models.loading import load_model
from foldrank.plans.models.rounding import NAMES, rounded
from foldrank.plans.models.unpacking import stack, unpack
from foldrank.sites import Site

if TYPE_CHECKING:
    from foldrank.checkpoint import Checkpoint

_OTHER_GRAPH = "give the checkpoint that the graph was made from"
_BY_BLOCK = ("layer_types", "no_rope_layers")
"""Entries of a config that hold one value per block."""


@dataclass(frozen=True)
class _Layer:
    """A block taken apart. `places`: for every role the module that holds its Linear, and the name it has there."""

    module: nn.Module
    places: dict[str, tuple[nn.Module, str]]

    def linear(self, role: str) -> nn.Linear:
        (found,) = self.linears(role)
        return found

    def linears(self, role: str) -> list[nn.Linear]:
        """What computes a role, in order: a Linear, or the two that were put in its place."""
        parent, name = self.places[role]
        module = parent.get_submodule(name)
        found = [module] if isinstance(module, nn.Linear) else list(module.children())
        return [linear for linear in found if isinstance(linear, nn.Linear)]

    def put(self, role: str, module: nn.Module) -> None:
        parent, name = self.places[role]
        if isinstance(parent, nn.ModuleDict):
            parent[name] = module
        else:
            setattr(parent, name, module)


def reference_model(
    checkpoint: Checkpoint, plan: Plan | None, dtype: torch.dtype = torch.float32, *, stored: str = "fp32",
    rounded_weights: Iterable[tuple[str, np.ndarray]] = (),
) -> nn.Module:
    """A transformers causal language model with the plan applied; blocks renumbered, so that its cache works.

    `stored` (fp32, fp16, bf16) is the dtype of the graph to be proved: what is rounded to few bits there was rounded to
    that before. `rounded_weights`: (site, or "head", and W [in, out]) that the plan's source graph holds in place of
    the checkpoint's. Raises PlanMismatch where the plan was made for another checkpoint.
    """
    model = load_model(checkpoint, dtype=dtype)
    if plan is None:
        put_weights(model, rounded_weights)
        return model
    parent, name = stack(model)
    layers = [_Layer(module, unpack(module, model.config)) for module in getattr(parent, name)]
    _check_source(checkpoint, layers, model.get_output_embeddings(), plan)
    _put(model, layers, rounded_weights)
    with torch.no_grad():
        for fold in plan.folds:
            _fold(layers, fold)
        for edit in plan.edits:
            if isinstance(edit, LowRank):
                a, b = (plan.arrays[name] for name in edit.factors)
                _factor(layers[edit.site.block], edit.site, a, b, dtype)
            elif isinstance(edit, ReplaceWeight):
                _overwrite(layers[edit.site.block], edit.site, plan.arrays[edit.tensor])
            elif isinstance(edit, QuantizeWeight):
                _round(layers[edit.site.block].linears(edit.site.role), edit, NAMES[stored])
            elif isinstance(edit, QuantizeHead):
                _own_head(model)
                _round([model.get_output_embeddings()], edit, NAMES[stored])
    _keep_layers(model, plan.surviving_blocks)
    return model.eval()


def block_weights(model: Any) -> dict[str, np.ndarray]:
    """W [in, out], float32, of every site of the first and the last block, by site."""
    parent, name = stack(model)
    blocks = list(getattr(parent, name))
    found: dict[str, np.ndarray] = {}
    for number in sorted({0, len(blocks) - 1}):
        layer = _Layer(blocks[number], unpack(blocks[number], model.config))
        found |= {str(Site(number, (role,))): _matrix(layer.linear(role)) for role in layer.places}
    return found


def put_weights(model: Any, weights: Iterable[tuple[str, np.ndarray]]) -> dict[str, float]:
    """Give a transformers model W [in, out] at single-role sites (`block.07.q`) and the `head`, one at a time.

    Gives by site how far each is from what stood there: |new - old| / |old|, Frobenius norms. Raises PlanMismatch where
    the model has no such site or another shape.
    """
    given = iter(weights)
    if (first := next(given, None)) is None:
        return {}
    parent, name = stack(model)
    layers = [_Layer(module, unpack(module, model.config)) for module in getattr(parent, name)]
    return _put(model, layers, chain((first,), given))


def _put(model: Any, layers: list[_Layer], weights: Iterable[tuple[str, np.ndarray]]) -> dict[str, float]:
    moved: dict[str, float] = {}
    for site, weight_IO in weights:
        if site == "head":
            _own_head(model)
        linear = model.get_output_embeddings() if site == "head" else _linear_at(layers, Site.parse(site))
        new = torch.from_numpy(np.ascontiguousarray(weight_IO.T)).to(linear.weight.dtype)
        if new.shape != linear.weight.shape:
            raise PlanMismatch(site, f"the graph's weight is {weight_IO.shape}, the checkpoint's "
                               f"{tuple(linear.weight.shape[::-1])}", _OTHER_GRAPH)
        with torch.no_grad():
            moved[site] = float(torch.dist(new, linear.weight) / linear.weight.norm().clamp_min(1e-30))
            linear.weight.copy_(new)
    return moved


def _linear_at(layers: list[_Layer], site: Site) -> nn.Linear:
    if site.block >= len(layers) or site.role not in layers[site.block].places:
        raise PlanMismatch(site, "the checkpoint has no such weight", _OTHER_GRAPH)
    return layers[site.block].linear(site.role)


def _check_source(checkpoint: Checkpoint, layers: list[_Layer], head: nn.Linear, plan: Plan) -> None:
    source = plan.document.source
    reasons = []
    if source.config_sha256 != checkpoint.config_sha256:
        reasons.append("config.json has another sha256")
    if source.blocks != len(layers):
        reasons.append(f"it has {len(layers)} blocks, the plan's source had {source.blocks}")
    else:
        found = _untouched(plan)
        reasons += [f"{site} holds other weights" for site, digest in found if not _holds(layers, site, digest)]
    if plan.head and not plan.head.replaces.matches(_matrix(head)):
        reasons.append("the head holds other weights")
    if reasons:
        raise PlanMismatch(
            checkpoint.path, f"not what the plan was made for: {' | '.join(reasons[:5])}", "plan this checkpoint"
        )


def _untouched(plan: Plan) -> list[tuple[Site, WeightDigest]]:
    """Digests a plan gives of weights as the checkpoint has them."""
    found = [(Site.parse(site), digest) for site, digest in plan.document.source.weights.items()]
    folded = {fold.into for fold in plan.folds}
    edits: list[LowRank | ReplaceWeight | QuantizeWeight] = [*plan.pairs, *plan.replacements, *plan.quantized]
    for edit in edits:
        if edit.site.block not in folded:
            found += zip(edit.site.parts, edit.replaces, strict=True)
    return found


def _holds(layers: list[_Layer], site: Site, digest: WeightDigest) -> bool:
    if site.role not in layers[site.block].places:
        return False
    return digest.matches(_matrix(layers[site.block].linear(site.role)))


def _matrix(linear: nn.Linear) -> np.ndarray:
    """W [in, out], float32."""
    return np.ascontiguousarray(linear.weight.detach().to(torch.float32).cpu().numpy().T)


def _fold(layers: list[_Layer], fold: FoldBlocks) -> None:
    """Write the combination into block `into`. Sums run over copies taken before the first write."""
    into, weights = layers[fold.into].module, {}
    for name, parameter in into.named_parameters():
        if not isinstance(into.get_submodule(name.rpartition(".")[0]), nn.Linear):  # the gains of a norm
            weights[name] = layers[fold.norm_source].module.get_parameter(name).detach().clone()
            continue
        total = torch.zeros_like(parameter, dtype=torch.float64)
        for number in fold.blocks:
            total += fold.coefficients[number] * layers[number].module.get_parameter(name).detach().to(torch.float64)
        weights[name] = total.to(parameter.dtype)
    for name, parameter in into.named_parameters():
        parameter.copy_(weights[name])


def _factor(layer: _Layer, site: Site, a_IR: np.ndarray, b_RO: np.ndarray, dtype: torch.dtype) -> None:
    """Put two Linears in the place of each role; roles of a packed site share A and take their columns of B."""
    start = 0
    for role in site.roles:
        old = layer.linear(role)
        b = b_RO[:, start : start + old.out_features]
        start += old.out_features
        down = nn.Linear(old.in_features, a_IR.shape[1], bias=False, dtype=dtype)
        up = nn.Linear(a_IR.shape[1], old.out_features, bias=old.bias is not None, dtype=dtype)
        down.weight.copy_(torch.from_numpy(np.array(a_IR.T)))
        up.weight.copy_(torch.from_numpy(np.array(b.T)))
        if old.bias is not None:
            up.bias.copy_(old.bias)
        layer.put(role, nn.Sequential(down, up))
    if start != b_RO.shape[1]:
        raise PlanMismatch(site, f"its factors write {b_RO.shape[1]} columns, the checkpoint has {start}", "plan again")


def _overwrite(layer: _Layer, site: Site, tensor_IO: np.ndarray) -> None:
    start = 0
    for role in site.roles:
        linear = layer.linear(role)
        part = tensor_IO[:, start : start + linear.out_features]
        start += linear.out_features
        linear.weight.copy_(torch.from_numpy(np.array(part.T)))


def _round(linears: list[nn.Linear], edit: QuantizeWeight | QuantizeHead, stored: torch.dtype) -> None:
    for linear in linears:
        linear.weight.copy_(rounded(linear.weight.to(torch.float32).T, edit.storage, stored).T)


def _own_head(model: Any) -> None:
    """A head that is no longer the embedding table."""
    model.get_output_embeddings().weight = nn.Parameter(model.get_output_embeddings().weight.detach().clone())


def _keep_layers(model: Any, surviving: tuple[int, ...]) -> None:
    """Drop the other blocks, number what is left for the cache, and let lists of the config by block follow."""
    parent, name = stack(model)
    layers, config = getattr(parent, name), model.config
    kept = [layers[number] for number in surviving]
    for index, layer in enumerate(kept):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index
    setattr(parent, name, nn.ModuleList(kept))
    config.num_hidden_layers = len(kept)
    for entry in _BY_BLOCK:
        if values := getattr(config, entry, None):
            setattr(config, entry, [values[number] for number in surviving])
