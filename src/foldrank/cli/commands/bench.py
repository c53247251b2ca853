"""foldrank bench."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output, progress, results


@click.command("bench")
@click.argument("bundle", type=options.PATH)
@click.option("--baseline", type=options.PATH, required=True, help="The dense bundle.")
@options.provider
@options.speed_gate
@click.option("--pairs", type=click.IntRange(min=20), default=None, help="Interleaved pairs a row.")
@options.seed
@options.reporting
@click.pass_context
def command(
    ctx: click.Context, bundle: Path, baseline: Path, provider: str | None, provider_options: dict[str, str],
    min_speedup: float | None, pairs: int | None, seed: int, as_json: bool, quiet: bool, verbose: bool,
) -> None:
    """Measure speed and memory, paired and interleaved with the dense bundle in one run."""
    from foldrank.verbs.bench import bench

    with progress.shown(quiet) as shown:
        found = options.usage(
            bench, bundle, baseline=baseline, provider=provider or "cpu",
            provider_options=provider_options, min_speedup=min_speedup, pairs=pairs,
            seed=seed, progress=shown,
        )
    if as_json:
        output.emit_json(found)
    else:
        results.show_bench(found)
    ctx.exit(results.exit_code(found))
