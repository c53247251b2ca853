"""compress: the whole way, in a workspace beside the output, which appears only once everything is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foldrank.bundle import Bundle
from foldrank.checkpoint import Checkpoint
from foldrank.installed import missing, require
from foldrank.late import kept
from foldrank.progress import SILENT, Progress
from foldrank.staging import check_output, move_into_place, sync_tree, workspace

_GPU_ALIGN = 64
_PAGE = ("matplotlib", "jinja2")
_NEEDED = {"torch": "torch", "transformers": "torch", "onnxruntime": "cpu"}
"""Libraries that some step cannot do without, and the extra that brings each."""


def compress(
    model: str | Path,
    output: str | Path,
    *,
    methods: Sequence[str],
    calibration: str | Path | None = None,
    calibration_tokens: int | None = None,
    recover: str | None = None,
    recover_text: str | Path | None = None,
    recover_tokens: int | None = None,
    recover_steps: int | None = None,
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
    validation_tokens: int = 20_480,
    device: str = "cpu",
    seed: int = 0,
    force: bool = False,
    offline: bool = False,
    trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> Bundle:
    """Export, plan, apply, add a self-test, validate, bench and report; returns the compressed bundle.

    What can be wrong is asked before the long work: libraries, settings, texts, whether the provider starts, the
    export. Without the extra `report` there is no page, and nothing else is missing.

    On a GPU ranks are multiples of 64 unless a method's `align` says otherwise: products of other sizes are slower.
    A failed gate of validate ends the run before the bench: the bundle is delivered with the verdict in its reports.
    `keep_going` measures its speed all the same, unless the graph proof failed. `dense` keeps the dense bundle there,
    or takes it from there where it exists. Raises what the single verbs raise; then no output is left behind, but from
    the finished bundle on (validate, bench, report) it is kept as OUTPUT.unfinished, with the dense one as
    OUTPUT.dense, and a note of the error says so.
    """
    require(_NEEDED)
    from foldrank.plans.compose import parse_all
    from foldrank.plans.models.families import check_family
    from foldrank.plans.request import aligned
    from foldrank.plans.texts import read_text
    from foldrank.runtime import validation
    from foldrank.runtime.fallback import check_starts
    from foldrank.runtime.providers import short_name
    from foldrank.verbs.apply import apply
    from foldrank.verbs.bench import bench
    from foldrank.verbs.export import export
    from foldrank.verbs.plan import plan
    from foldrank.verbs.reference import reference_of
    from foldrank.verbs.report import report
    from foldrank.verbs.rounded import refuse_replacing
    from foldrank.verbs.selftest import add_selftest
    from foldrank.verbs.validate import validate

    if short_name(provider) != "cpu":
        methods = [aligned(method, _GPU_ALIGN) for method in methods]
    dense = None if dense is None else Path(dense).expanduser()
    output = Path(output).expanduser().absolute()
    check_output(output, force=force)
    requests = parse_all(methods)
    validation.share(max_perplexity_increase)
    for given in (text, calibration, recover_text):
        if given is not None:
            read_text(Path(given).expanduser(), "calibration")
    trust: dict[str, Any] = {"offline": offline, "trust_remote_code": trust_remote_code}
    check_family(Checkpoint.open(model, **trust))
    check_starts(provider, provider_options)
    with workspace(output) as work:
        if dense is not None and Path(dense).exists():
            baseline = Bundle.open(dense)
            refuse_replacing(baseline, [request.method for request in requests])
        else:
            baseline = export(
                model, dense or work / "dense", exporter=exporter, dtype=dtype, provider=provider, seed=seed,
                progress=progress, **trust,
            )
        made = plan(
            model, None, methods=methods, calibration=calibration, calibration_tokens=calibration_tokens, seed=seed,
            recover=recover, recover_text=recover_text, recover_tokens=recover_tokens, recover_steps=recover_steps,
            device=device, progress=progress, **trust,
        )
        small = apply(baseline, made, work / "bundle", seed=seed, progress=progress)
        known = reference_of(small, Checkpoint.open(model, **trust), baseline)
        small = add_selftest(small, known, seed)
        running: dict[str, Any] = {"provider": provider, "provider_options": provider_options, "seed": seed}
        finished = {"unfinished": small.path}
        if dense is None:
            finished["dense"] = baseline.path
        with kept(finished, output):
            found = validate(
                small, reference=baseline, known=known, text=text, max_perplexity_increase=max_perplexity_increase,
                min_top1_agreement=min_top1_agreement, tokens=validation_tokens, progress=progress, **trust, **running,
            )
            if _goes_on(found, keep_going):
                bench(small.path, baseline=baseline, min_speedup=min_speedup, quick=True, progress=progress, **running)
            if not missing(_PAGE):  # without that extra all but the page is there
                report(small.path, progress=progress)
            sync_tree(small.path)
        move_into_place(small.path, output, force=force)
    return Bundle.open(output)


def _goes_on(found: dict[str, Any], keep_going: bool) -> bool:
    """Whether speed is worth measuring: never of a graph that computes something else than its plan says."""
    return found["graph"]["passed"] is not False and (keep_going or found["verdict"] == "pass")
