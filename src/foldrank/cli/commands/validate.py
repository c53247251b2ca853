"""foldrank validate."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import ci, options, output, progress, results


@click.command("validate")
@click.argument("bundle", type=options.PATH)
@click.option("--reference", type=options.PATH, required=True, help="The dense bundle.")
@click.option("--model", help="The checkpoint, for the graph proof; default: where the bundle says it came from.")
@click.option("--proof/--no-proof", default=True, help="Whether to run the graph proof.")
@options.quality_gates
@options.release_quality
@options.release
@options.tasks
@options.bos
@options.provider
@options.fallback
@options.source
@options.seed
@ci.options
@options.reporting
@click.pass_context
def command(
    ctx: click.Context, bundle: Path, reference: Path, model: str | None, proof: bool, text: Path | None,
    max_perplexity_increase: float | None, min_top1_agreement: float | None, max_kl: float | None,
    max_bytes: int | None, max_task_drop: float | None, against_release: str | None, release_slack: float,
    tasks: bool, bos: str | None,
    provider: str | None,
    provider_options: dict[str, str], allow_fallback: bool, offline: bool, trust_remote_code: bool, seed: int,
    junit: Path | None, annotations: str | None, as_json: bool, quiet: bool, verbose: bool,
) -> None:
    """Prove that the graph computes what the plan says, and measure what that cost in quality."""
    from foldrank.reports.cases import of_validation
    from foldrank.reports.limits import QualityLimits
    from foldrank.reports.validate import FORM
    from foldrank.verbs.released import released
    from foldrank.verbs.validate import validate

    with (ci.told("validate", junit, annotations) as told, progress.shown(quiet) as shown,
          released(against_release) as before):
        limits = QualityLimits(
            max_kl=max_kl, max_bytes=max_bytes, max_task_drop=max_task_drop, slack=release_slack,
            release=before)
        found = options.usage(
            validate, bundle, reference=reference, model=model, text=text, provider=provider or "cpu",
            provider_options=provider_options, allow_fallback=allow_fallback, proof=proof,
            max_perplexity_increase=max_perplexity_increase, min_top1_agreement=min_top1_agreement, bos=bos or "auto",
            seed=seed, tasks=tasks, offline=offline, trust_remote_code=trust_remote_code, limits=limits,
            progress=shown,
        )
        report = FORM.parse(found)
        told.cases = of_validation(report)
    if as_json:
        output.emit_json(found)
    else:
        results.show_validation(report)
    ctx.exit(int(report.failed))
