"""compress: the whole way, in a workspace beside the output, which appears only once everything is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foldrank.bundle import Bundle
from foldrank.checkpoint import Checkpoint
from foldrank.progress import SILENT, Progress
from foldrank.staging import check_output, move_into_place, sync_tree, workspace

_GPU_ALIGN = 64


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
    device: str = "cpu",
    seed: int = 0,
    force: bool = False,
    offline: bool = False,
    trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> Bundle:
    """Export, plan, apply, add a self-test, validate, bench and report; returns the compressed bundle.

    What can be wrong is asked before the long work: settings, texts, whether the provider starts, the export.

    On a GPU ranks are multiples of 64 unless a method's `align` says otherwise: products of other sizes are slower.
    A failed graph proof stops the run before the bench. Another failed gate does not stop it: the bundle is
    delivered with the verdict in its reports. `dense` keeps the dense bundle there, or takes it from there where it
    exists. Raises what the single verbs raise; then no output is left behind.
    """
    from foldrank.plans.compose import parse_all
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
    from foldrank.verbs.selftest import add_selftest
    from foldrank.verbs.validate import check_proved, validate

    if short_name(provider) != "cpu":
        methods = [aligned(method, _GPU_ALIGN) for method in methods]
    output = Path(output).absolute()
    check_output(output, force=force)
    parse_all(methods)
    validation.share(max_perplexity_increase)
    for given in (text, calibration, recover_text):
        if given is not None:
            read_text(Path(given), "calibration")
    check_starts(provider, provider_options)
    trust: dict[str, Any] = {"offline": offline, "trust_remote_code": trust_remote_code}
    with workspace(output) as work:
        if dense is not None and Path(dense).exists():
            baseline = Bundle.open(dense)
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
        known = reference_of(small, Checkpoint.open(model, **trust))
        small = add_selftest(small, known, seed)
        running: dict[str, Any] = {"provider": provider, "provider_options": provider_options, "seed": seed}
        found = validate(
            small, reference=baseline, known=known, text=text, max_perplexity_increase=max_perplexity_increase,
            min_top1_agreement=min_top1_agreement, progress=progress, **trust, **running,
        )
        check_proved(found, small)
        bench(small.path, baseline=baseline, min_speedup=min_speedup, quick=True, progress=progress, **running)
        report(small.path, progress=progress)
        sync_tree(small.path)
        move_into_place(small.path, output)
    return Bundle.open(output)
