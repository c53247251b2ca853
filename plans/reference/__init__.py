"""The independent reference: a plan applied to the checkpoint in PyTorch, to prove graphs against.

Written without the planner's view of a model and without the passes: it loads the checkpoint anew, does the fold
arithmetic itself in float64, and leaves every pair as two Linears. Norms and rotary tables keep the precision the
model family gives them (float32 inside), also in a float64 reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from foldrank.digests import WeightDigest
from foldrank.edits import room
from foldrank.edits.base import EMBEDDING, HEAD, Part
from foldrank.errors import InvariantBroken, PlanMismatch
from foldrank.planfile.plan import Plan
from foldrank.plans.models.loading import load_model
from foldrank.plans.reference.model import Model, matrix_of, take_apart
from foldrank.plans.reference.stored import Stored
from foldrank.sites import Site

if TYPE_CHECKING:
    from foldrank.model.checkpoint import Checkpoint

AS_TRAINED = Stored()
"""In float32: no number is rounded."""
_OTHER_GRAPH = "give the checkpoint that the graph was made from"


def reference_model(
    checkpoint: Checkpoint, plan: Plan | None, dtype: torch.dtype = torch.float32, *, stored: Stored = AS_TRAINED,
    rounded_weights: Iterable[tuple[str, np.ndarray]] = (), seen: Callable[[Model], None] | None = None,
) -> nn.Module:
    """A transformers causal language model with the plan applied; blocks renumbered, so that its cache works.

    `stored`: how the graph to be proved stores floats: they are rounded as there, before edits and after, but for those
    of few bits. `rounded_weights`: (site, or "head", and W [in, out]) that the plan's source
    graph holds in place of the checkpoint's. `seen` is shown the model before any of that. Raises PlanMismatch where
    the plan was made for another checkpoint.
    """
    model = load_model(checkpoint, dtype=dtype)
    if seen is not None:
        seen(Model.of(model, {}, stored.dtype))
    stored.round_rotary(model)
    if plan is None:
        stored.round(model)
        put_weights(model, rounded_weights)
        return model
    apart = Model.of(model, plan.arrays, stored.dtype)
    _check_source(checkpoint, apart, plan)
    stored.round(model)
    given = [_linear_of(apart, site) for site in _put(apart, rounded_weights)]
    source = apart.anatomy()
    with torch.no_grad():
        for edit in plan.edits:
            room("foldrank.plans.reference", edit.kind).edit(edit, apart)
    if odd := list(apart.anatomy().differences(plan.anatomy(source))):
        raise InvariantBroken("anatomy", f"the reference is not what the plan leaves: {'; '.join(odd[:3])}",
                              "report this as a bug of foldrank")
    stored.round(model, {*apart.few_bits, *map(id, given)})
    return apart.put_together()


def block_weights(model: Any) -> dict[str, np.ndarray]:
    """W [in, out], float32, of every site of the first and the last block, by site."""
    layers = take_apart(model, ends=True)
    return {str(Site(number, (role,))): matrix_of(layer.linear(role))
            for number, layer in layers.items() for role in layer.places}


def put_weights(model: Any, weights: Iterable[tuple[str, np.ndarray]]) -> dict[str, float]:
    """Give a transformers model W [in, out] at single-role sites (`block.07.q`) and the `head`, one at a time.

    Gives by site how far each is from what stood there: |new - old| / |old|, Frobenius norms. Raises PlanMismatch where
    the model has no such site or another shape.
    """
    given = iter(weights)
    if (first := next(given, None)) is None:
        return {}
    return _put(Model.of(model, {}, torch.float32), chain((first,), given))


def _put(apart: Model, weights: Iterable[tuple[str, np.ndarray]]) -> dict[str, float]:
    moved: dict[str, float] = {}
    for site, weight_IO in weights:
        if site == HEAD:
            apart.own_head()
        linear = _linear_of(apart, site)
        new = torch.from_numpy(np.ascontiguousarray(weight_IO.T)).to(linear.weight.dtype)
        if new.shape != linear.weight.shape:
            raise PlanMismatch(site, f"the graph's weight is {weight_IO.shape}, the checkpoint's "
                               f"{tuple(linear.weight.shape[::-1])}", _OTHER_GRAPH)
        with torch.no_grad():
            moved[site] = float(torch.dist(new, linear.weight) / linear.weight.norm().clamp_min(1e-30))
            linear.weight.copy_(new)
    return moved


def _linear_of(apart: Model, site: str) -> nn.Linear:
    found: nn.Linear = apart.head if site == HEAD else _linear_at(apart, Site.parse(site))
    return found


def _linear_at(apart: Model, site: Site) -> nn.Linear:
    layer = apart.layers.get(site.block)
    if layer is None or site.role not in layer.places:
        raise PlanMismatch(site, "the checkpoint has no such weight", _OTHER_GRAPH)
    return layer.linear(site.role)


def _check_source(checkpoint: Checkpoint, apart: Model, plan: Plan) -> None:
    source = plan.document.source
    reasons = []
    if source.config_sha256 != checkpoint.config_sha256:
        reasons.append("config.json has another sha256")
    if source.blocks != len(apart.layers):
        reasons.append(f"it has {len(apart.layers)} blocks, the plan's source had {source.blocks}")
    else:
        reasons += [f"{part if isinstance(part, Site) else f'the {part}'} holds other weights"
                    for part, digest in _untouched(plan) if not _holds(apart, part, digest)]
    if reasons:
        raise PlanMismatch(
            checkpoint.path, f"not what the plan was made for: {' | '.join(reasons[:5])}", "plan this checkpoint"
        )


def _untouched(plan: Plan) -> Iterator[tuple[Part, WeightDigest]]:
    """Digests a plan gives of weights as the checkpoint has them."""
    for site, digest in plan.document.source.weights.items():
        yield Site.parse(site), digest
    written: set[Part] = set()
    for edit in plan.edits:
        yield from ((part, digest) for part, digest in edit.replaced.items() if part not in written)
        written |= edit.touch.writes


def _holds(apart: Model, part: Part, digest: WeightDigest) -> bool:
    if not isinstance(part, Site):
        return digest.matches(matrix_of(apart.table if part == EMBEDDING else apart.head))
    layer = apart.layers[part.block]
    return part.role in layer.places and digest.matches(matrix_of(layer.linear(part.role)))
