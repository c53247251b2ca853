"""foldrank bench."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foldrank.cli import ci, options, output, progress, results


@click.command("bench")
@click.argument("bundle", type=options.PATH)
@click.option("--baseline", type=options.PATH, help="The dense bundle; needed but with --cost-table.")
@click.option("--cost-table", type=options.PATH, metavar="FILE",
              help="Only time the MatMuls of this dense bundle, dense and as pairs, and write the table that "
                   "auto's cost_table reads.")
@click.option("--cost-tokens", type=click.IntRange(min=1), default=1, show_default=True,
              help="For --cost-table: tokens computed at once; 1 is decoding at batch 1.")
@click.option("--against", multiple=True, type=click.Choice(("optimum", "transformers", "genai-default", "llama.cpp")),
              help="Repeatable: measure the dense bundle against that too, in the same run; llama.cpp against the "
                   "compressed one.")
@click.option("--gguf", type=options.PATH, metavar="FILE",
              help="What --against llama.cpp runs; without it the GGUF file that the checkpoint was read from.")
@options.provider
@options.fallback
@options.speed_gate
@options.release_speed
@options.release
@click.option("--pairs", type=click.IntRange(min=20), default=None, help="Interleaved pairs a row.")
@options.seed
@ci.options
@options.reporting
@click.pass_context
def command(
    ctx: click.Context, bundle: Path, baseline: Path | None, cost_table: Path | None, provider: str | None,
    provider_options: dict[str, str], allow_fallback: bool, min_speedup: float | None,
    max_memory: int | None, max_p95_ttft_ms: float | None, max_p95_tpot_ms: float | None, against_release: str | None,
    release_slack: float, pairs: int | None, seed: int,
    cost_tokens: int, against: tuple[str, ...], gguf: Path | None,
    junit: Path | None, annotations: str | None, as_json: bool, quiet: bool, verbose: bool,
) -> None:
    """Measure speed and memory, paired and interleaved with the dense bundle in one run."""
    from foldrank.reports.bench import FORM
    from foldrank.reports.cases import of_bench
    from foldrank.reports.limits import SpeedLimits
    from foldrank.verbs.bench import bench
    from foldrank.verbs.bench import cost_table as measure_table
    from foldrank.verbs.released import released

    if (baseline is None) == (cost_table is None):
        raise click.UsageError("give --baseline DENSE to compare, or --cost-table FILE to time products", ctx)
    on: dict[str, Any] = {"provider": provider or "cpu", "provider_options": provider_options, "seed": seed}
    if cost_table is not None:
        with progress.shown(quiet) as shown:
            table = options.usage(measure_table, bundle, cost_table, tokens=cost_tokens, progress=shown, **on)
        if as_json:
            output.emit_json({"cost_table": str(cost_table.absolute()), "shapes": len(table.timings),
                              "rows": results.cost_rows(table)})
        else:
            output.say(f"{len(table.timings)} shapes timed: {cost_table}")
            results.show_costs(table)
        return
    with (ci.told("bench", junit, annotations) as told, progress.shown(quiet) as shown,
          released(against_release) as before):
        limits = SpeedLimits(
            max_memory_bytes=max_memory, max_p95_first_ms=max_p95_ttft_ms, max_p95_token_ms=max_p95_tpot_ms,
            slack=release_slack, release=before)
        found = options.usage(
            bench, bundle, baseline=baseline, min_speedup=min_speedup, pairs=pairs, allow_fallback=allow_fallback,
            against=against, gguf=gguf, limits=limits, progress=shown, **on,
        )
        report = FORM.parse(found)
        told.cases = of_bench(report)
    if as_json:
        output.emit_json(found)
    else:
        results.show_bench(report)
    ctx.exit(int(report.failed))
