"""auto: one solver that chooses, block by block, between folding it, dropping a branch, narrowing its MLP, and the rank
of every site, by measured loss.

Budget in numbers (`keep`), bytes of the whole model's weights (`bytes`, stored as `dtype`), or time of the blocks'
matrix products by a measured cost table (`speedup` with `cost_table`). Given a table, no pair is chosen that takes
longer than its dense site, whatever the budget is in.

Seven parts, in `solver/`. `fisher.py` predicts what every rank of every site costs in nats (two-sided whitening),
`narrowing.py` what every width of an MLP does.
`staged.py` lets a mixed-integer program (`program.py`) choose all at once, in few stages, from losses measured at each.
`search.py` goes down in steps instead, the best measured move for what it saves: all there is with effort=low, beside
the program with effort=high, in its place where that finds no way. The search that ends with the lowest measured loss
is kept; `improving.py` moves single ranks and widths at its end. `block_refit.py` fits each block so that it makes up
for what lies below it, so dense sites change too (`replace_weight` edits). The calibration windows are split: every
third measures, the others give Gram matrices, so that a choice is judged on text it was not fit to. Only the last fit
of the chosen layout sees all of them. The same seed gives the same plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from foldrank.edits.base import Phase
from foldrank.freed import give_back
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.methods import quantize
from foldrank.plans.solver.axes import front, shares
from foldrank.plans.solver.block_refit import fit
from foldrank.plans.solver.budget import WIDTHS, Budget, budget_of
from foldrank.plans.solver.costs import total
from foldrank.plans.solver.expected import Expected
from foldrank.plans.solver.fisher import Roots
from foldrank.plans.solver.fitted_edits import fitted_result
from foldrank.plans.solver.improving import exchanged, filled, roomy
from foldrank.plans.solver.journal import Journal, Step
from foldrank.plans.solver.layout import Layout, Packed, Shapes, dense_layout, numbers_stored
from foldrank.plans.solver.meter import Meter
from foldrank.plans.solver.moves import Terms
from foldrank.plans.solver.original import Original, shapes_of
from foldrank.plans.solver.rounding import corrected
from foldrank.plans.solver.search import Effort, Search
from foldrank.plans.solver.settings import Settings
from foldrank.plans.solver.staged import Stages
from foldrank.plans.solver.windows import SEARCH_TOKENS, shortened, split
from foldrank.plans.width.channels import Order
from foldrank.sites import Site

EFFORTS = {
    "low": Effort(16, 8, 2, (), (1,), 0, 3, 2, built=False),
    "normal": Effort(24, 10, 3, (), (2,), 16, 5),
    "high": Effort(200, 40, 8, (0.5, 0.25, 0.125, 0.04), (1, 2, 3, 4), 400),
}
STRIDE = 0.125
"""Of a descent that takes the place of a program that finds no way."""

EXCHANGED = 3 * 10**12
"""Numbers times tokens that exchanges may take up: 16 builds of a model of 30 million, four of one of 100 million."""

def run(task: Task, settings: Settings) -> Result:
    """Choose and fit. Raises ValueError where the budget is out of reach, PlanFormatError on a bad cost table."""
    decoder = task.decoder
    layout = dense_layout(tuple(block.number for block in decoder.blocks))
    shapes = _shapes(task, settings.sites)
    width = WIDTHS[settings.dtype]
    outside = quantize.outside_bytes(decoder, settings.storing, width) if settings.stores else (
        width * decoder.other_parameters)
    budget = budget_of(decoder, settings, layout, shapes, settings.storages, outside)
    if total(layout, shapes, budget.costs) <= budget.limit:
        return Result(decoder, edits=(), kept=1.0)
    chosen = _best(task, settings, budget, layout, shapes)
    give_back()
    last = task.ids[:: EFFORTS[settings.effort].every]
    whole = Original.passing(decoder, last, chosen.roots, settings.sites, chosen.orders)
    fits = fit(whole, chosen.layout, task.progress)
    kept = numbers_stored(chosen.layout, shapes) / numbers_stored(layout, shapes)
    result = chosen.told(fitted_result(task, whole, chosen.layout, fits, kept))
    return _stored(task, settings, chosen.layout, result, chosen.meter) if settings.stores else result


def _until(settings: Settings) -> Phase:
    return Phase.STORAGE if settings.stores else Phase.WEIGHTS


METHOD = Method("auto", Settings, run, phase=Phase.BLOCKS, until=_until)


def _stored(task: Task, settings: Settings, layout: Layout, result: Result, meter: Meter) -> Result:
    """The result with its sites rounded as the layout says, measured once more."""
    storages = {Site(span.low, (role,)): settings.storages[bits]
                for span in layout for roles, bits in span.bits.items() for role in roles}
    rounded = quantize.stored(replace(task, decoder=result.decoder), settings.storing, storages)
    loss = meter.on(rounded.decoder).whole()
    return replace(result, decoder=rounded.decoder, edits=(*result.edits, *rounded.edits),
                   arrays={**result.arrays, **rounded.arrays}, predicted={**result.predicted, "auto.stored_nats": loss})


def _shapes(task: Task, packed: Packed) -> Shapes:
    first = task.decoder.blocks[0]
    for block in task.decoder.blocks:
        if shapes_of(block, packed) != shapes_of(first, packed):
            raise ValueError(
                f"auto: block.{block.number:02d} has other shapes than block.{first.number:02d}; use dipsvd"
            )
    return shapes_of(first, packed)


@dataclass(frozen=True)
class _Chosen:
    """A layout, and all of the search that is needed to fit and report it: the search itself holds gigabytes.

    `loss`: as measured, in nats on the measuring windows; None where the result alone is built.
    """

    layout: Layout
    roots: Roots
    orders: Mapping[int, Order]
    meter: Meter
    steps: Sequence[Step]
    diagnostics: Mapping[str, Any]
    loss: float | None

    def told(self, result: Result) -> Result:
        """The result with loss expected by the quadratic model of every step, and loss measured."""
        loss = self.meter.on(result.decoder).whole() if self.loss is None else self.loss
        steps = [step.measured(loss) for step in self.steps] if self.loss is None else self.steps
        predicted = {"auto.predicted_nats": sum(step.predicted for step in steps), "auto.measured_nats": loss,
                     "auto.steps": len(steps)}
        told = [{"block": step.low, "unit": step.unit, "saved": step.saved, "predicted_nats": step.predicted,
                 "tried_nats": step.tried, "measured_nats": step.loss} for step in steps]
        return replace(result, predicted=predicted, diagnostics={"auto_steps": told, **self.diagnostics})


def _best(task: Task, settings: Settings, budget: Budget, dense: Layout, shapes: Shapes) -> _Chosen:
    """What the search that ends with the lowest measured loss has found."""
    measuring, fitting = split(shortened(task.ids, task.opening), task.opening)
    count = max(1, SEARCH_TOKENS // fitting.shape[1])
    used = fitting[:: max(1, len(fitting) // count)][:count]
    expected = Expected.of(task.decoder, used, task.seed, settings.sites, settings.multiple(settings.width_align),
                           narrow=settings.narrow, storages=[*settings.storages.values()], progress=task.progress)
    give_back()
    terms = _terms(task, settings, budget, shapes, expected)
    original = Original.of(task.decoder, used, expected.roots, settings.sites, expected.orders, expected.streams)
    meter = Meter.of(task.decoder, measuring)
    if settings.stores:
        few, blocks = meter.every(3), task.decoder.blocks
        terms = replace(terms, rounding=corrected(
            expected.rounding, blocks, settings.storages[4], few, few.inputs(blocks)))
    effort = EFFORTS[settings.effort]
    affordable = EXCHANGED // (used.size * numbers_stored(dense, shapes))
    effort = replace(effort, exchanges=min(effort.exchanges, affordable))
    if settings.stores:
        effort = replace(effort, stages=(1,))  # bits are not built: halfway there is no nearer

    def search_of(name: str, stride: float) -> Search:
        return Search(original, meter, terms, effort, stride, task.progress, Journal(name, task.shelf))

    def chosen(found: Search, layout: Layout, loss: float | None) -> _Chosen:
        return _Chosen(layout, original.roots, original.orders, meter, found.steps,
                       _diagnostics(found, layout, dense, budget.limit), loss)

    best: Search | None = None
    for count in effort.stages:
        search = search_of(f"stages {count}", 1 / count)
        stages = Stages(search, count)
        planned = None if effort.built else stages.planned(dense, budget.limit)
        if planned is not None and not roomy(budget.limit - terms.cost(planned), budget.limit):
            return chosen(search, planned, None)
        if stages.run(dense, budget.limit, planned):
            filled(search, budget.limit)
            best = _better(best, search)
    for stride in effort.strides if effort.strides or best else (STRIDE,):
        search = search_of(f"descent {stride}", stride)
        search.run(dense, budget.limit)
        filled(search, budget.limit)
        best = _better(best, search)
    assert best is not None, "a descent always ends"
    exchanged(best, budget.limit)
    return chosen(best, best.reached.layout, best.reached.loss)


def _better(best: Search | None, search: Search) -> Search:
    """The one that has come to the lower measured loss, the first of two alike; the other and its state are let go."""
    return search if best is None or search.reached.loss < best.reached.loss else best


def _terms(
    task: Task, settings: Settings, budget: Budget, shapes: Shapes, expected: Expected
) -> Terms:
    decoder = task.decoder
    kinds = {block.number: block.likeness for block in decoder.blocks}
    folded = any(block.origin for block in decoder.blocks)

    def alike(low: int, high: int) -> bool:
        held = [kinds[number] for number in range(low, high + 1)] if settings.fold and not folded else []
        return bool(held) and all(kind == held[0] for kind in held)

    def allowed(shape: tuple[int, int], rank: int) -> bool:
        return settings.factor and budget.allowed(shape, rank)

    return Terms(shapes, budget.costs, expected.curves, settings.multiple(settings.align), allowed, alike,
                 expected.narrowings, settings.drop, expected.rounding)


def _diagnostics(found: Search, layout: Layout, dense: Layout, limit: float) -> dict[str, Any]:
    spans = [span for span in layout if span.low != span.high]
    return {
        "auto_axes": [
            {"axis": share.axis, "predicted_nats": share.nats, "alone_nats": share.alone}
            for share in shares(found.terms, dense, layout, found.factors, limit)
        ],
        "auto_front": [
            {"of_budget": cost / limit, "predicted_nats": nats}
            for cost, nats in front(found.terms, dense, found.factors, limit)
        ],
        "windows": [{"low": span.low, "high": span.high} for span in spans],
    }
