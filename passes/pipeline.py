"""Run a plan's passes over a model, in an order fixed by kind, asking the laws of the graph after each.

Weights first, then low rank, then blocks leave, then the cache is renumbered, then clean-up, and last what is left is
stored in few bits: so site numbers stay true until the end. Before all, merged norms are taken apart where blocks
correspond only so, blocks are marked where names do not tell them, declarations are set right and the head size is
stated, since later it can no longer be read from a weight's shape.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

from foldrank.errors import GraphNotRecognized, InvariantBroken, PlanMismatch
from foldrank.graph.cache import echoes
from foldrank.graph.decoder import Decoder, View
from foldrank.graph.invariants import check_graph, unknown_ports
from foldrank.passes.base import GraphPass, Receipt
from foldrank.passes.cache import DropEchoes, RenumberCache, StateHeadSize
from foldrank.passes.clean_up import CleanUp
from foldrank.passes.declarations import SetDeclarations
from foldrank.passes.drop_blocks import DropBlocks
from foldrank.passes.few_bits import Quantizer
from foldrank.passes.fold_blocks import FoldWeights
from foldrank.passes.low_rank import FactorLinears
from foldrank.passes.mark_blocks import MarkBlocks
from foldrank.passes.quantize import QuantizeLinears
from foldrank.passes.replace_weight import ReplaceWeights
from foldrank.passes.split_norms import SplitNorms
from foldrank.planfile import Plan
from foldrank.progress import SILENT, Progress, track


def passes_for(plan: Plan, quantizer: Quantizer | None = None) -> tuple[GraphPass, ...]:
    """The plan's passes in order. Raises ValueError where it stores weights in few bits and there is no quantizer."""
    source = plan.document.source
    leaving = tuple(b for fold in plan.folds for b in fold.leaving)
    passes = tuple(_passes(plan, leaving, source.name))
    if not plan.few_bits:
        return passes
    if quantizer is None:
        raise ValueError("the plan stores weights in few bits: a quantizer is needed")
    sites = (*(edit.site for edit in plan.pairs), *(edit.site for edit in plan.replacements))
    written = frozenset(part for site in sites for part in site.parts)
    return (*passes, QuantizeLinears(plan.quantized, plan.head, written, quantizer, source.name))


def _passes(plan: Plan, leaving: tuple[int, ...], name: str) -> Iterator[GraphPass]:
    yield MarkBlocks()
    yield SetDeclarations()
    yield DropEchoes()
    yield StateHeadSize()
    if plan.folds:
        yield FoldWeights(plan.folds, plan.document.source.weights, name)
    if plan.replacements:
        yield ReplaceWeights(plan.replacements, plan.arrays, name)
    if plan.pairs:
        yield FactorLinears(plan.pairs, plan.arrays, name)
    if leaving:
        yield DropBlocks(leaving)
    yield RenumberCache()
    yield CleanUp()


def transform(
    model: ir.Model, plan: Plan, progress: Progress = SILENT, quantizer: Quantizer | None = None
) -> tuple[ir.Model, tuple[Receipt, ...]]:
    """A changed copy of the model and what was done; the model given stays as it is, tensors are shared.

    `quantizer`: what stores weights in few bits, where the plan does. Raises PlanMismatch, PassRefused,
    GraphNotRecognized; InvariantBroken names the folder of a reproducer.
    """
    copy = model.clone()
    return copy, transform_in_place(copy, plan, prepare(copy), progress, quantizer)


def prepare(model: ir.Model) -> tuple[View, Receipt]:
    """The model's view, after the change in place that a view may need; and what that was. The laws of the graph are
    not asked yet: an exporter's declarations may be wrong still."""
    view = View(model)
    receipt = SplitNorms().edit(model, view)
    return (View(model) if receipt.changes else view), receipt


def transform_in_place(
    model: ir.Model, plan: Plan, prepared: tuple[View, Receipt], progress: Progress = SILENT,
    quantizer: Quantizer | None = None,
) -> tuple[Receipt, ...]:
    """Change a model and tell what was done. `prepared`: what `prepare` gave of the model.

    Raises as `transform` does; the model is worth nothing then.
    """
    view, receipt = prepared
    _check_fit(model, view.decoder, plan)
    return (receipt, *run(model, passes_for(plan, quantizer), plan, progress, view))


def _check_fit(model: ir.Model, decoder: Decoder, plan: Plan) -> None:
    """Whether the plan was made for such a decoder, and the graph has the ports of one."""
    where = model.graph.name or "graph"
    passed_on = {port.name for pair in echoes(model.graph) for port in pair}
    if odd := [name for name in unknown_ports(model.graph) if name not in passed_on]:
        what = f"inputs or outputs {', '.join(odd[:4])} are not those of a decoder with a plain cache"
        raise GraphNotRecognized(where, what, "export it with another exporter")
    numbers = [block.kv.number for block in decoder.blocks]
    if gaps := sorted(set(range(numbers[-1] + 1)) - set(numbers)):
        beside = [number for number in numbers if abs(number - gaps[0]) == 1]
        what = f"KV pairs are numbered with gaps: no pair {gaps[0]}; nearest: {', '.join(map(str, beside))}"
        raise GraphNotRecognized(where, what, "apply the plan to a dense export")
    blocks, planned = len(decoder.blocks), plan.document.source.blocks
    if blocks != planned:
        what = f"has {blocks} blocks, the plan was made for {plan.document.source.name} with {planned}"
        raise PlanMismatch(where, what, "apply the plan to a dense export of that checkpoint")


def run(
    model: ir.Model, passes: Sequence[GraphPass], plan: Plan, progress: Progress = SILENT, view: View | None = None
) -> tuple[Receipt, ...]:
    """Run passes in place, each followed by the laws of the graph. What a pass has read serves the next, until one
    changes what views are read from."""
    receipts: list[Receipt] = []
    view = view or View(model)
    for step in track(passes, "passes", len(passes), progress):
        receipts.append(step.edit(model, view))
        last = step is passes[-1]
        if not receipts[-1].changes and not last:
            continue  # the laws held before
        if not step.keeps_view:
            view = View(model)
        try:
            check_graph(model, step.name, finished=last)
        except InvariantBroken as broken:
            remedy = f"{broken.remedy}, with {_reproducer(model, plan)}"
            raise InvariantBroken(broken.where, broken.what, remedy) from broken
    return tuple(receipts)


def _reproducer(model: ir.Model, plan: Plan) -> Path:
    """A folder with the broken graph and the plan, weights and factors left out. Takes the weights off the model."""
    folder = Path(tempfile.mkdtemp(prefix="foldrank-reproducer-"))
    for name, value in model.graph.initializers.items():
        if (tensor := value.const_value) is not None:
            value.const_value = ir.ExternalTensor(
                "left-out", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
            )
    (folder / "graph.onnx").write_bytes(ir.to_proto(model).SerializeToString())
    (folder / "plan.json").write_text(plan.document.text(), encoding="utf-8")
    return folder
