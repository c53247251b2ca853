"""From a checkpoint and methods in order to one Plan: each method sees the model as the ones before left it.

Knows methods by their interface only (`plans/method.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from foldrank.digests import WeightDigest, in_threads, sha256_array
from foldrank.edits import Edit, on_edits
from foldrank.edits.base import Phase
from foldrank.errors import InvariantBroken, SourceError
from foldrank.freed import give_back
from foldrank.model.anatomy import checkpoint_anatomy
from foldrank.model.opening import PLAIN, Opening
from foldrank.planfile.document import Keep, PlanDocument, Source, Step
from foldrank.planfile.plan import Plan
from foldrank.plans.calibration import calibration_windows, described, usable
from foldrank.plans.depth.similarity_map import similarity_map
from foldrank.plans.method import Result, Task
from foldrank.plans.models.decoder import Decoder, load_decoder
from foldrank.plans.request import Request, aligned, parse
from foldrank.plans.resume import code_version, open_shelf
from foldrank.plans.shards import HERE, Shards
from foldrank.plans.shelf import MemoryShelf, Shelf
from foldrank.plans.texts import Windows
from foldrank.progress import SILENT, Progress
from foldrank.sites import Site
from foldrank.verified import sha256_of
from foldrank.versions import versions

if TYPE_CHECKING:
    from foldrank.model.checkpoint import Checkpoint

_DOES = {
    Phase.BLOCKS: "fold blocks", Phase.BRANCHES: "drop branches", Phase.WIDTHS: "narrow MLPs",
    Phase.NORMS: "change norms", Phase.ROTATION: "rotate the stream", Phase.WEIGHTS: "replace weights",
    Phase.SHARING: "share weights", Phase.STORAGE: "store in few bits", Phase.BESIDE: "add pairs beside",
}
"""What methods do, in the order in which they come."""


@dataclass(frozen=True)
class Run:
    request: Request
    result: Result


def make_plan(
    checkpoint: Checkpoint, methods: Sequence[str], *, calibration: Path | None = None,
    calibration_tokens: int | None = None, windows: Windows | None = None, seed: int = 0, device: str = "cpu",
    progress: Progress = SILENT, after: Callable[[Decoder, Plan, Shelf], Plan] | None = None, shards: Shards = HERE,
) -> Plan:
    """Plan a checkpoint. `windows`: the calibration, where it is cut already. `after`: what is done to the plan
    then, on the same shelf. `shards`: where and in how many parts sums over the windows are made. Raises ValueError on
    wrong use, SourceError on a text or checkpoint that cannot serve."""
    requests = parse_all(methods)
    windows = windows or calibration_windows(checkpoint, calibration, calibration_tokens, seed)
    decoder = load_decoder(checkpoint, device=device)
    windows = usable(decoder, windows)
    with open_shelf(*_inputs(checkpoint, windows, seed, device, shards)) as shelf:
        runs = run_all(decoder, requests, windows.ids, seed, progress, shelf, opening=windows.opening, shards=shards)
        plan = plan_of(checkpoint, decoder, windows, runs, shards.count)
        return plan if after is None else after(decoder, plan, shelf)


def plan_of(
    checkpoint: Checkpoint, decoder: Decoder, windows: Windows, runs: Sequence[Run], shards: int = 1
) -> Plan:
    """The plan that runs of methods came to: one that fits the checkpoint as its headers tell it."""
    source = checkpoint_anatomy(checkpoint)
    try:
        left = on_edits(_edits(runs), source)
    except ValueError as error:
        raise InvariantBroken("anatomy", f"the plan does not fit the checkpoint: {error}",
                              "report this as a bug of foldrank") from error
    return Plan(
        document=PlanDocument(
            source=_source(checkpoint, decoder, runs),
            calibration=described(windows, shards),
            steps=tuple(_step(run) for run in runs),
            predicted={**_predicted(decoder, runs), "blocks_before": len(source.blocks),
                       "blocks_after": len(left.blocks)},
            versions=versions(),
            edits=_edits(runs),
        ),
        arrays={name: array for run in runs for name, array in run.result.arrays.items()},
        diagnostics=_diagnostics(decoder, windows.ids, runs),
    )


def parse_all(methods: Sequence[str]) -> tuple[Request, ...]:
    """Read `--method` values. Where weights are stored in few bits afterwards, ranks fill whole blocks of those unless
    `align` is given. Raises ValueError: none, one twice, several of one phase, or one of an earlier phase
    behind one of a later; one that changes the model for all others, which comes first, behind another."""
    if not methods:
        raise ValueError("no method given; give one or more, such as slm:keep=0.75 or dipsvd:keep=0.8")
    requests = tuple(parse(text) for text in methods)
    if sizes := [request.settings.block_size for request in requests if request.method.phase is Phase.STORAGE]:
        requests = tuple(parse(aligned(text, sizes[0])) for text in methods)
    names = [request.method.name for request in requests]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"method {name} stands twice; give it once, with the keep of both together")
    for one, request in pairwise(requests):
        other = request.method
        if other.settled is not None:
            raise ValueError(f"methods {', '.join(names)}: {other.name} comes first: it changes what all are given")
        if one.method.settled is not None:
            continue
        if other.phase < one.last:
            order = f"methods that {_DOES[other.phase]} come before those that {_DOES[one.last]}"
            raise ValueError(f"methods {', '.join(names)}: {order}")
        if other.phase == one.last:
            raise ValueError(f"methods {', '.join(names)}: several of them {_DOES[other.phase]}; one can")
    return requests


def run_all(
    decoder: Decoder, requests: Sequence[Request], ids_NT: np.ndarray, seed: int, progress: Progress = SILENT,
    shelf: Shelf | None = None, *, made: Sequence[Run] = (), opening: Opening = PLAIN, shards: Shards = HERE,
) -> tuple[Run, ...]:
    """Run methods in order, each on the model as left by the ones before, with a part of the shelf for each. `made`:
    runs of the first of them, from an earlier call. `opening`: what each window starts with."""
    shelf = shelf or MemoryShelf()
    task = Task(decoder, ids_NT, seed, source=decoder, progress=progress, opening=opening, shards=shards)
    runs = []
    for number, request in enumerate(requests):
        shelf = shelf.under(f"{request.method.name} {json.dumps(request.values, sort_keys=True)}")
        known = made[number].result if number < len(made) else None
        result = known or request.method.run(replace(task, shelf=shelf), request.settings)
        _check_interleaved(decoder, request, result.edits)
        task = replace(task, decoder=result.decoder)
        runs.append(Run(request, result))
        if request.method.settled is not None:  # what it read from files is not among the settings
            shelf = shelf.under(" ".join(map(sha256_array, result.arrays.values())))
        give_back()
    return _settled(runs, decoder)


def _settled(runs: Sequence[Run], source: Decoder) -> tuple[Run, ...]:
    """The same runs, the first one's edits those that the others leave to it."""
    settled = runs[0].request.method.settled if len(runs) > 1 else None  # alone, all is left to it
    if settled is None:
        return tuple(runs)
    first, others = runs[0], runs[1:]
    arrays = {name: array for run in others for name, array in run.result.arrays.items()}
    result = settled(first.result, source, _edits(others), arrays)
    return (replace(first, result=result), *others)


def _inputs(
    checkpoint: Checkpoint, windows: Windows, seed: int, device: str, shards: Shards
) -> tuple[str, ...]:
    """All that a plan's findings follow from, besides the methods' settings."""
    return (
        code_version(), torch.__version__, checkpoint.config_sha256, *map(sha256_of, checkpoint.weight_files),
        sha256_array(windows.ids), str(windows.ids.shape), str(windows.opening), str(seed), device,
        str(shards.count),
    )


def _check_interleaved(decoder: Decoder, request: Request, edits: Sequence[Edit]) -> None:
    """Raise SourceError where an edit takes one role out of a weight that holds several head by head."""
    together = decoder.family.interleaved
    for edit in edits:
        odd = sorted(part for part in edit.touch.writes if isinstance(part, Site) and part.role in together)
        if edit.phase is Phase.WEIGHTS and odd and len(odd) != len(together):
            weight = f"{decoder.family.path(together[0])} holds {', '.join(together)} head by head"
            raise SourceError(odd[0], f"{weight}, so {odd[0].role} cannot be replaced alone",
                              f"run {request.method.name} with packed weights taken as one")


def _source(checkpoint: Checkpoint, decoder: Decoder, runs: Sequence[Run]) -> Source:
    read = frozenset().union(*(edit.touch.reads for edit in _edits(runs)))
    sites = [site for block in decoder.blocks for role in block.roles if (site := Site(block.number, (role,))) in read]
    digests = in_threads(
        lambda site: WeightDigest.of(decoder.blocks[site.block].weight(site.role).cpu().numpy()), sites
    )
    weights = dict(zip(map(str, sites), digests, strict=True))
    return Source(
        name=checkpoint.name, config_sha256=checkpoint.config_sha256, architecture=checkpoint.architecture,
        blocks=len(decoder.blocks), weights=weights,
    )


def _step(run: Run) -> Step:
    values = run.request.values
    asked: Any = values.get("keep")
    return Step(run.request.method.name, values, Keep(asked, run.result.kept))


def _predicted(decoder: Decoder, runs: Sequence[Run]) -> dict[str, float | int]:
    """What the plan leaves of the blocks' weights and of the whole model, with the methods' own figures."""
    last = runs[-1].result.decoder
    before, after = (d.other_parameters + sum(b.parameters for b in d.blocks) for d in (decoder, last))
    found: dict[str, float | int] = {
        "keep": last.stored_parameters / decoder.site_parameters,
        "parameters_before": before, "parameters_after": after - last.site_parameters + last.stored_parameters,
    }
    for run in runs:
        found |= run.result.predicted
    return found


def _diagnostics(decoder: Decoder, ids_NT: np.ndarray, runs: Sequence[Run]) -> dict[str, Any]:
    found: dict[str, Any] = {"windows": [], "spectra": [], "slm_trace": []}
    found["similarity"] = similarity_map(decoder, ids_NT)
    for run in runs:
        found |= run.result.diagnostics
    return found


def _edits(runs: Sequence[Run]) -> tuple[Edit, ...]:
    """By phase: those of the first method may be of a later one than those of the next."""
    return tuple(sorted((edit for run in runs for edit in run.result.edits), key=lambda edit: edit.phase))
