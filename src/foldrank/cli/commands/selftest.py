"""foldrank selftest."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output, results


@click.command("selftest")
@click.argument("bundle", type=options.PATH)
@options.provider
@options.fallback
@options.reporting
@click.pass_context
def command(
    ctx: click.Context, bundle: Path, provider: str | None, provider_options: dict[str, str],
    allow_fallback: bool, as_json: bool, quiet: bool, verbose: bool,
) -> None:
    """Replay the bundle's self-test on this machine; needs no torch."""
    from foldrank.verbs.selftest import selftest

    found = options.usage(
        selftest, bundle, provider=provider or "cpu", provider_options=provider_options, allow_fallback=allow_fallback,
    )
    if as_json:
        output.emit_json(found)
    else:
        results.show_selftest(found)
    ctx.exit(int(found["verdict"] == "fail"))
