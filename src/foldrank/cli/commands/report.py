"""foldrank report."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output, progress


@click.command("report")
@click.argument("bundle", type=options.PATH)
@click.option("--png", type=options.PATH, help="Folder to write the page's pictures to, each a PNG.")
@options.reporting
def command(bundle: Path, png: Path | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Write one self-contained HTML page from the bundle's JSON files."""
    from foldrank.verbs.report import report

    with progress.shown(quiet) as shown:
        page = report(bundle, png=png, progress=shown)
    written = {"report": str(page), **({"png": str(png)} if png else {})}
    output.emit_json(written) if as_json else output.say("\n".join(written.values()))
