"""foldrank selftest."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import ci, options, output, results


@click.command("selftest")
@click.argument("bundle", type=options.PATH)
@options.provider
@options.fallback
@ci.options
@options.reporting
@click.pass_context
def command(
    ctx: click.Context, bundle: Path, provider: str | None, provider_options: dict[str, str],
    allow_fallback: bool, junit: Path | None, annotations: str | None, as_json: bool, quiet: bool, verbose: bool,
) -> None:
    """Replay the bundle's self-test on this machine; needs no torch."""
    from foldrank.reports.cases import of_selftest
    from foldrank.verbs.selftest import selftest

    with ci.told("selftest", junit, annotations) as told:
        found = options.usage(
            selftest, bundle, provider=provider or "cpu", provider_options=provider_options,
            allow_fallback=allow_fallback,
        )
        told.cases = of_selftest(found)
    if as_json:
        output.emit_json(found)
    else:
        results.show_selftest(found)
    ctx.exit(int(found["verdict"] == "fail"))
