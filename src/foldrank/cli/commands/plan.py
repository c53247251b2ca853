"""foldrank plan."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output, plans, progress


@click.command("plan")
@click.argument("model")
@options.output
@options.calibration
@options.recovering
@options.bos
@options.source
@click.option("--device", default="cpu", show_default=True, help="Where PyTorch computes.")
@click.option("--shards", type=click.IntRange(min=1), default=1, show_default=True,
              help="Parts of the calibration windows whose Gram matrices are summed (low-rank methods).")
@click.option("--ray", metavar="ADDRESS",
              help="A Ray cluster (HOST:PORT, or auto) on which each part has a worker: the same plan, sooner.")
@options.seed
@options.reporting
def command(
    model: str, output_: Path, force: bool, methods: tuple[str, ...], calibration: Path | None,
    calibration_tokens: int | None, calibration_from: Path | None, like: Path | None, recipe: Path | None,
    settings: tuple[str, ...], save_recipe: Path | None, recover: str | None,
    recover_text: Path | None, recover_tokens: int | None, recover_steps: int | None, recover_minutes: float | None,
    recover_target: str | None, recover_select: str | None, recover_lisa: int | None, bos: str | None, offline: bool,
    trust_remote_code: bool, device: str, shards: int, ray: str | None, seed: int, as_json: bool, quiet: bool,
    verbose: bool,
) -> None:
    """Compute a compression plan for a checkpoint from calibration text."""
    from foldrank.verbs.plan import plan

    chosen = plans.choose(recipe, save_recipe, settings=settings, methods=methods, calibration=calibration,
                          calibration_tokens=calibration_tokens, calibration_from=calibration_from, like=like,
                          seed=plans.given("seed", seed), recover=recover,
                          recover_text=recover_text, recover_tokens=recover_tokens, recover_steps=recover_steps,
                          recover_minutes=recover_minutes, recover_target=recover_target,
                          recover_select=recover_select, recover_lisa=recover_lisa, bos=bos)
    with progress.shown(quiet) as shown:
        made = options.usage(
            plan, model, output_, methods=chosen.methods, calibration=chosen.calibration,
            calibration_tokens=chosen.calibration_tokens, calibration_from=chosen.calibration_from, like=chosen.like,
            seed=chosen.seed or 0, device=device, force=force,
            recover=chosen.recover, recover_text=chosen.recover_text, recover_tokens=chosen.recover_tokens,
            recover_steps=chosen.recover_steps, recover_minutes=chosen.recover_minutes,
            recover_target=chosen.recover_target, recover_select=chosen.recover_select,
            recover_lisa=chosen.recover_lisa, bos=chosen.bos or "auto", offline=offline,
            trust_remote_code=trust_remote_code, shards=shards, ray=ray, progress=shown,
        )
    if as_json:
        output.emit_json({"plan": str(output_.absolute()), **plans.summary(made)})
    else:
        plans.show(made)
