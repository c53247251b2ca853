"""compress: the whole way, stage by stage beside the output, which appears only once everything is there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foldrank.bundle.bundle import Bundle, source_differs
from foldrank.disk.staging import check_output, move_into_place, sync_tree
from foldrank.disk.unfinished import unfinished
from foldrank.errors import BundleError
from foldrank.installed import missing, require
from foldrank.model.checkpoint import Checkpoint
from foldrank.progress import SILENT, Progress, Timed
from foldrank.reports.tasks import NEEDED
from foldrank.reports.validate import Validation

_GPU_ALIGN = 64

PROVING = 1 / 3
"""Share of the time that proofs and bench take at most."""


def compress(
    model: str | Path,
    output: str | Path,
    *,
    methods: Sequence[str] = (),
    goal: str | None = None,
    minutes: float | None = None,
    calibration: str | Path | None = None,
    calibration_tokens: int | None = None,
    calibration_from: str | Path | None = None,
    like: str | Path | None = None,
    recover: str | None = None,
    recover_text: str | Path | None = None,
    recover_tokens: int | None = None,
    recover_steps: int | None = None,
    recover_minutes: float | None = None,
    recover_target: str | None = None,
    recover_select: str | None = None,
    recover_lisa: int | None = None,
    bos: str = "auto",
    text: str | Path | None = None,
    exporter: str = "auto",
    dtype: str = "fp32",
    provider: str = "cpu",
    provider_options: Mapping[str, str] | None = None,
    max_perplexity_increase: float | str | None = None,
    min_top1_agreement: float | None = None,
    min_speedup: float | None = None,
    dense: str | Path | None = None,
    keep_going: bool = False,
    validation_tokens: int | None = None,
    tasks: bool = False,
    device: str = "cpu",
    seed: int = 0,
    force: bool = False,
    offline: bool = False,
    trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> Bundle:
    """Export, plan, apply, add a self-test, validate, bench and report; returns the compressed bundle.

    `goal` ("small", "balanced", "fast") in the place of methods and, unless it is asked for, recovery:
    `foldrank.verbs.goal` says what each is. `minutes`: so long may all of it take, about: recovery has what is left,
    and on a slow machine quality is measured on fewer tokens than the usual 20,480 (`validation_tokens`).

    What can be wrong is asked before the long work: libraries, settings, texts, whether the provider starts, whether
    `dense` is of this checkpoint, the export. Without matplotlib the page has no pictures, and nothing else is missing.

    Proofs and bench take at most a third of the time, unless that is less than the least of a bench: one engine and one
    prompt (`benchmarks/budget.py`), or all of them where there is `min_speedup`. What is left out is named.
    On a GPU ranks are multiples of 64 unless a method's `align` says otherwise: products of other sizes are slower.
    A failed gate of validate ends the run before the bench: the bundle is delivered with the verdict in its reports.
    `keep_going` measures its speed all the same, unless the graph proof failed. `dense` keeps the dense bundle there,
    or takes it from there where it exists. `tasks`: those of `validate`.

    Raises what the single verbs raise; then there is no output, but what was finished (export, plan, apply, validate,
    bench) is kept in OUTPUT.unfinished, which a note of the error names. The same command goes on from there, and one
    with other settings from what they leave as it was.
    """
    began_s, timed = time.monotonic(), Timed(progress)
    require({**_needed(exporter), **(NEEDED if tasks else {})})
    from foldrank.plans.compose import parse_all
    from foldrank.plans.models.families import check_family
    from foldrank.plans.request import aligned
    from foldrank.runtime.proof import validation
    from foldrank.runtime.providers.fallback import check_starts
    from foldrank.runtime.providers.provider import short_name
    from foldrank.verbs.compress_stages import Way
    from foldrank.verbs.goal import MOST_TOKENS, RECOVERY_MINUTES, kind_behind, methods_of
    from foldrank.verbs.plan import recovery
    from foldrank.verbs.reading import chosen_text, held_out, planning
    from foldrank.verbs.report import PAGE, report
    from foldrank.verbs.rounded import refuse_replacing

    dense = None if dense is None else Path(dense).expanduser()
    output = Path(output).expanduser().absolute()
    check_output(output, force=force)
    if goal is not None and methods:
        raise ValueError("a goal and methods are given; give one of the two")
    here = short_name(provider)
    if minutes is not None and (goal is None or not 0 < minutes < float("inf")):
        raise ValueError(f"{minutes} minutes: give them above 0, beside a goal")
    align = _GPU_ALIGN if here != "cpu" else 1
    free = goal is not None and recover is None and recover_minutes is None and recover_steps is None
    if free:
        recover, recover_minutes = kind_behind(here), RECOVERY_MINUTES
    requests = parse_all([aligned(method, align)
                          for method in (methods if goal is None else methods_of(goal, here))])
    validation.share(max_perplexity_increase)
    trained: dict[str, Any] = {"minutes": recover_minutes, "target": recover_target, "select": recover_select,
                               "lisa": recover_lisa}
    read = chosen_text(calibration, calibration_from, like)
    asked = recovery(recover, recover_text or read, recover_tokens, recover_steps, bos=bos,
                     like=None if recover_text else like, **trained)
    trust: dict[str, Any] = {"offline": offline, "trust_remote_code": trust_remote_code}
    checkpoint = Checkpoint.open(model, progress=progress, **trust)
    check_family(checkpoint)
    windows, drawn = planning(checkpoint, read, calibration_tokens, asked, seed=seed, bos=bos, like=like)
    held = held_out(checkpoint.path, checkpoint.config, text, tokens=validation_tokens or MOST_TOKENS, seed=seed,
                    bos=bos)
    texts = {name: None if read is None else read.text.sha256
             for name, read in (("text", held), ("calibration", windows), ("recover_text", drawn))}
    check_starts(provider, provider_options)
    if dense is not None and dense.exists():
        _check_dense(Bundle.open(dense), checkpoint)
        refuse_replacing(Bundle.open(dense), requests)
    running: dict[str, Any] = {"provider": provider, "provider_options": provider_options, "seed": seed}
    with unfinished(output) as stages:
        way = Way(stages, model, checkpoint, texts, trust=trust, running=running, progress=timed)
        baseline = way.exported(dense, exporter=exporter, dtype=dtype, provider=provider, seed=seed)
        tokens = MOST_TOKENS
        if goal is not None:
            left_s = None if minutes is None else 60 * minutes * (1 - PROVING) - (time.monotonic() - began_s)
            if left_s is not None and not free:
                left_s -= 60 * (recover_minutes or 0)
            chosen = way.chosen(goal, here, windows, left_s=left_s, of=[minutes, recover_minutes], device=device)
            methods = [way.with_costs(baseline, method) for method in chosen.methods]
            tokens = chosen.tokens
            if free:
                recover, trained["minutes"] = chosen.recover, chosen.minutes
        way.planned(
            methods=[aligned(method, align) for method in methods], calibration=calibration,
            calibration_tokens=calibration_tokens, calibration_from=calibration_from, like=like, seed=seed,
            recover=recover, recover_text=recover_text, recover_tokens=recover_tokens, recover_steps=recover_steps,
            bos=bos, device=device, **{f"recover_{name}": value for name, value in trained.items()},
        )
        small = way.applied(baseline, seed=seed, bos=bos)
        found = way.validated(
            baseline, text=text, max_perplexity_increase=max_perplexity_increase,
            min_top1_agreement=min_top1_agreement, tokens=validation_tokens or tokens,
            tasks=tasks, bos=bos,
        )
        if _goes_on(found, keep_going):
            budget_s = None if min_speedup else bench_seconds(time.monotonic() - began_s, _proofs_s(timed))
            way.benched(baseline, budget_s, min_speedup=min_speedup, quick=True)
        if not missing((PAGE,)):
            report(small.path, progress=progress)
        sync_tree(small.path)
        with stages.leaving("apply"):
            move_into_place(small.path, output, force=force)
    return Bundle.open(output)


def bench_seconds(spent_s: float, proofs_s: float) -> float:
    """So long may a bench take after `spent_s` seconds, `proofs_s` of them for proofs, that both are `PROVING` of
    all."""
    return max(0.0, (PROVING * spent_s - proofs_s) / (1 - PROVING))


def _proofs_s(timed: Timed) -> float:
    from foldrank.verbs.export_proof import EXPORT_PROOF
    from foldrank.verbs.validate import PROOF

    return sum(timed.seconds.get(stage, 0.0) for stage in (EXPORT_PROOF, PROOF))


def _check_dense(dense: Bundle, checkpoint: Checkpoint) -> None:
    """Raise BundleError where the dense bundle to start from is another checkpoint's."""
    if different := source_differs(dense.manifest.source, checkpoint.source()):
        what = f"was not exported from {checkpoint.name} ({different})"
        raise BundleError(dense.path, what, "leave --dense out, or name a folder that is not there yet")


def _needed(exporter: str) -> dict[str, str]:
    """Libraries that some step cannot do without, and the extra that brings each. What a method needs its settings
    tell, and the exporters of standard operators name theirs where they start, which is the first step."""
    needed = {"torch": "torch", "transformers": "torch", "onnxruntime": "cpu"}
    return {**needed, "onnxruntime_genai": "cpu"} if exporter in ("auto", "genai") else needed


def _goes_on(found: Validation, keep_going: bool) -> bool:
    """Whether speed is worth measuring: never of a graph that computes something else than its plan says."""
    return found.graph.passed is not False and (keep_going or not found.failed)
