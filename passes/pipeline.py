"""Run a plan's passes over a model, in an order fixed by phase, asking the laws of the graph after each.

Contents first, phase by phase, then what leaves, then the cache is renumbered, then clean-up, and last what is left is
stored in few bits: so site numbers stay true until the end. Before all, merged norms are taken apart where blocks
correspond only so, blocks are marked where names do not tell them, declarations are set right and the head size is
stated, since later it can no longer be read from a weight's shape. In the end the graph's anatomy must be the one that
the plan says it leaves. Knows no kind of edit: each has a room of its own here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import onnx_ir as ir

from foldrank.edits import KINDS, class_of, room
from foldrank.edits.anatomy import Anatomy
from foldrank.edits.base import Part
from foldrank.errors import GraphNotRecognized, InvariantBroken, PlanMismatch
from foldrank.graph.anatomy import read_anatomy
from foldrank.graph.dataflow.cache import echoes
from foldrank.graph.invariants import check_graph, unknown_ports
from foldrank.graph.view.decoder import Decoder, View
from foldrank.passes.base import GraphPass, Quantizer, Receipt, Stage, Work
from foldrank.passes.cache import DropEchoes, RenumberCache, StateHeadSize
from foldrank.passes.clean_up import CleanUp
from foldrank.passes.declarations import SetDeclarations
from foldrank.passes.mark_blocks import MarkBlocks
from foldrank.passes.split_norms import SplitNorms
from foldrank.planfile.plan import Plan
from foldrank.progress import SILENT, Progress, track


def passes_for(plan: Plan, quantizer: Quantizer | None = None) -> tuple[GraphPass, ...]:
    """The plan's passes in order. Raises ValueError where it stores weights in few bits and there is no quantizer."""
    first: list[GraphPass] = [MarkBlocks(), SetDeclarations(), DropEchoes(), StateHeadSize()]
    staged = sorted(_passes(plan, quantizer), key=itemgetter(0))
    before = [step for stage, step in staged if stage < Stage.STORAGE]
    after = [step for stage, step in staged if stage >= Stage.STORAGE]
    return (*first, *before, RenumberCache(), CleanUp(), *after)


def _passes(plan: Plan, quantizer: Quantizer | None) -> Iterator[tuple[Stage, GraphPass]]:
    """Of each kind, those of all its edits, by phase."""
    source = plan.document.source
    work = Work(plan.arrays, source.weights, source.name, quantizer)
    for kind in sorted(KINDS, key=lambda kind: class_of(kind).phase):
        edits = plan.of(class_of(kind))
        if not edits:
            continue
        yield from room("foldrank.passes", kind).passes(edits, work)
        writes = frozenset[Part]().union(*(edit.touch.writes for edit in edits))
        own = frozenset[Part]() if class_of(kind).provable else writes
        work = replace(work, edited=work.edited | writes, written=work.written | own)


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
    source = read_anatomy(view.decoder)
    receipts = run(model, passes_for(plan, quantizer), plan, progress, view)
    _check_anatomy(model, plan.anatomy(source), plan)
    return (receipt, *receipts)


def _check_fit(model: ir.Model, decoder: Decoder, plan: Plan) -> None:
    """Whether the plan was made for such a decoder, and the graph has the ports of one."""
    where = model.graph.name or "graph"
    passed_on = {port.name for pair in echoes(model.graph) for port in pair}
    if odd := [name for name in unknown_ports(model.graph) if name not in passed_on]:
        what = f"inputs or outputs {', '.join(odd[:4])} are not those of a decoder with a plain cache"
        raise GraphNotRecognized(where, what, "export it with another exporter")
    numbers = [block.kv.number for block in decoder.blocks if block.kv is not None]
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
            raise _reproduced(broken, model, plan) from broken
    return tuple(receipts)


def _check_anatomy(model: ir.Model, expected: Anatomy, plan: Plan) -> None:
    """Whether the graph is made of what the plan says it leaves: no edit was left out, or made by half."""
    if odd := list(read_anatomy(View(model).decoder).differences(expected)):
        what = f"the graph is not what the plan leaves: {'; '.join(odd[:3])}"
        raise _reproduced(InvariantBroken("anatomy", what, "report this as a bug of foldrank"), model, plan)


def _reproduced(broken: InvariantBroken, model: ir.Model, plan: Plan) -> InvariantBroken:
    return InvariantBroken(broken.where, broken.what, f"{broken.remedy}, with {_reproducer(model, plan)}")


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
