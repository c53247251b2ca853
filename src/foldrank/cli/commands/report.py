"""foldrank report."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output, progress


@click.command("report")
@click.argument("bundle", type=options.PATH)
@options.reporting
def command(bundle: Path, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Write one self-contained HTML page from the bundle's JSON files."""
    from foldrank.verbs.report import report

    with progress.shown(quiet) as shown:
        page = report(bundle, progress=shown)
    output.emit_json({"report": str(page)}) if as_json else output.say(str(page))
