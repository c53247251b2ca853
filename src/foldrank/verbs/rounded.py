"""Graphs that came with weights in few bits: what their reference must hold, and whether an edited graph kept it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from foldrank.bundle.bundle import Bundle
from foldrank.edits.anatomy import Anatomy
from foldrank.edits.base import Phase
from foldrank.errors import BundleError, NotWritable, PassRefused
from foldrank.graph.anatomy import read_anatomy
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.dequantized import HEAD, Rounded, matrices, rounded_linears
from foldrank.graph.view.skip_norms import read_apart
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.plans.request import Request
from foldrank.reports.validate import WeightsKept
from foldrank.runtime.proof.compare import Comparison
from foldrank.sites import Site
from foldrank.tolerances import ROUNDED_WEIGHT
from foldrank.verbs.export_window import Window
from foldrank.verbs.torch_logits import logits_of

_SHOWN = 5


@dataclass(frozen=True)
class GivenBits:
    """Linears of few bits in a bundle's graph and in the graph that its plan was applied to: the same, without one."""

    held: tuple[Rounded, ...]
    source: tuple[Rounded, ...]
    source_name: str
    anatomy: Anatomy | None = None
    """Of the graph that the plan was applied to, where that holds such weights."""

    @classmethod
    def of(cls, bundle: Bundle, graph: ir.Model, plan: Plan | None, dense: Bundle | None) -> GivenBits:
        """`graph` is the bundle's. Raises BundleError where it holds such weights and `dense` is not what they were
        taken from."""
        held = tuple(rounded_linears(graph))
        if plan is None:
            return cls(held, held, bundle.path.name)
        if not held:
            return cls((), (), "")
        model = None if dense is None else load_model(dense.model)
        source = () if model is None else tuple(rounded_linears(model))
        if not source or model is None:
            what = f"came with weights in few bits, and {dense.path.name if dense else 'no graph given'} holds none"
            raise BundleError(bundle.path, what, "give the dense bundle that the plan was applied to")
        return cls(held, source, dense.path.name if dense else "", read_anatomy(read_apart(model)))

    def kept(self, plan: Plan | None) -> WeightsKept | None:
        """Whether the bundle holds them bit for bit as the source graph does; None where there are none, or no plan."""
        if plan is None or self.anatomy is None:
            return None
        there = {linear.sites: linear for linear in self.source}
        after = plan.anatomy(self.anatomy)
        came_from = {block.number: block.copies for block in after.blocks if block.copies is not None}
        differ = [linear.sites for linear in self.held
                  if (old := there.get(_before(linear.sites, came_from))) is None or not linear.same_as(old)]
        return WeightsKept(compared=len(self.held), differ=[",".join(sites) for sites in differ[:_SHOWN]],
                           passed=not differ)


def refuse_replacing(bundle: Bundle, requests: Iterable[Request]) -> None:
    """Raise PassRefused, before anything is planned, where a method would replace weights that came in few bits."""
    replacing = [request.method.name for request in requests
                 if request.last >= Phase.WIDTHS and request.method.phase < Phase.BESIDE]
    if replacing and (linears := rounded_linears(load_model(bundle.model))):
        where, count = linears[0].sites[0], sum(len(linear.sites) for linear in linears)
        what = f"{where}: its graph came with {count} weights in few bits, which {replacing[0]} cannot replace"
        raise PassRefused(bundle.path, [what], "compress the dense model first and quantise after, or fold alone")


def _before(sites: tuple[str, ...], came_from: dict[int, int]) -> tuple[str, ...]:
    """The sites of the source graph that these were copied from."""
    if sites == (HEAD,):
        return sites
    parsed = [Site.parse(text) for text in sites]
    return tuple(str(replace(site, block=came_from.get(site.block, site.block))) for site in parsed)


def rounded_reference(
    checkpoint: Checkpoint, model: Any, linears: Sequence[Rounded], window: Window
) -> dict[str, str | int | float]:
    """Give a PyTorch model the weights that a dense graph holds in few bits, in place, and tell how far that takes it
    from the checkpoint: mean KL and share of equal likeliest tokens on random windows, largest |rounded - W| / |W|.

    Raises NotWritable where a weight is no rounding of the checkpoint's at all.
    """
    from foldrank.plans.reference import put_weights

    random, logits = np.random.default_rng(1), logits_of(model)
    ids = [random.integers(0, window.vocabulary, shape) for shape in ((2, window.short), (1, window.long))]
    wanted = [logits(ids_BT) for ids_BT in ids]
    moved = put_weights(model, matrices(linears))
    if other := sorted(site for site, distance in moved.items() if not distance <= ROUNDED_WEIGHT):
        what = f"the graph's weights are no rounding of the checkpoint's at {', '.join(other[:_SHOWN])}"
        raise NotWritable(checkpoint.path, f"{what}: {moved[other[0]]:.2f} of its norm away",
                          "give the checkpoint that was quantised")
    found = Comparison("the quantised model")
    for want, ids_BT in zip(wanted, ids, strict=True):
        found.add(want, logits(ids_BT))
    return {"reference": "dequantised", "rounded_weights": len(moved), "rounding": max(moved.values()),
            "checkpoint_kl_nats": found.kl_nats, "checkpoint_top1": found.argmax_agreement(0.0)}
