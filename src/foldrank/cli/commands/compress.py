"""foldrank compress."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output, plans, progress, results


@click.command("compress")
@click.argument("model")
@options.output
@options.calibration
@options.recovering
@click.option("--goal", type=click.Choice(["small", "balanced", "fast"]),
              help="In the place of methods: fewer bytes than with 4-bit weights, as many, or less time.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True),
              help="With --goal: so long may all of it take, about; recovery has what is left.")
@options.bos
@options.exporting
@options.provider
@options.quality_gates
@options.tasks
@options.speed_gate
@click.option("--dense", type=options.PATH, help="Keep the dense bundle here, or take it from here if it exists.")
@click.option("--keep-going", is_flag=True, help="Bench after a failed gate too (never after a failed proof).")
@options.source
@click.option("--device", default="cpu", show_default=True, help="Where PyTorch computes.")
@options.seed
@options.reporting
@click.pass_context
def command(
    ctx: click.Context, model: str, output_: Path, force: bool, methods: tuple[str, ...], goal: str | None,
    minutes: float | None, calibration: Path | None, calibration_tokens: int | None, calibration_from: Path | None,
    like: Path | None, recipe: Path | None, settings: tuple[str, ...],
    save_recipe: Path | None, recover: str | None,
    recover_text: Path | None, recover_tokens: int | None, recover_steps: int | None, recover_minutes: float | None,
    recover_target: str | None, recover_select: str | None, recover_lisa: int | None, bos: str | None,
    exporter: str | None, dtype: str | None, provider: str | None, provider_options: dict[str, str], text: Path | None,
    max_perplexity_increase: float | None, min_top1_agreement: float | None, min_speedup: float | None,
    tasks: bool, dense: Path | None, keep_going: bool, offline: bool, trust_remote_code: bool, device: str, seed: int,
    as_json: bool, quiet: bool, verbose: bool,
) -> None:
    """From a checkpoint to a proven, measured bundle: export, plan, apply, validate, bench and report."""
    from foldrank.reports import bench, validate
    from foldrank.verbs.compress import compress

    chosen = plans.choose(
        recipe, save_recipe, settings=settings, methods=methods, goal=goal, minutes=minutes, calibration=calibration,
        calibration_tokens=calibration_tokens, calibration_from=calibration_from, like=like,
        recover=recover, recover_text=recover_text, recover_tokens=recover_tokens, recover_steps=recover_steps,
        recover_minutes=recover_minutes, recover_target=recover_target, recover_select=recover_select,
        recover_lisa=recover_lisa, bos=bos, text=text, seed=plans.given("seed", seed), exporter=exporter, dtype=dtype,
        provider=provider,
        max_perplexity_increase=max_perplexity_increase, min_top1_agreement=min_top1_agreement, min_speedup=min_speedup,
    )
    with progress.shown(quiet) as shown:
        made = options.usage(
            compress, model, output_, **plans.options(chosen), provider_options=provider_options, dense=dense,
            keep_going=keep_going, tasks=tasks, device=device, force=force, offline=offline,
            trust_remote_code=trust_remote_code, progress=shown,
        )
    page = made.path / "report.html"
    report = str(page) if page.is_file() else None
    validated, benched = validate.FORM.read(made), bench.FORM.read(made)
    if as_json:
        output.emit_json({"bundle": str(made.path), "report": report, "validate": made.json(validate.FORM.file),
                          "bench": made.json(bench.FORM.file)})
    else:
        if validated:
            results.show_validation(validated)
        if benched:
            results.show_bench(benched)
        else:
            output.say("speed: not measured, as validation failed")
        shown_page = report or "none: jinja2 is not installed; pip install 'foldrank[report]', foldrank report"
        output.say(f"\nbundle: {made.path}\nreport: {shown_page}")
    ctx.exit(int(any(found is not None and found.failed for found in (validated, benched))))
