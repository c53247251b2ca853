"""foldrank sbom."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output


@click.command("sbom")
@click.argument("bundle", type=options.PATH, required=False)
@click.option("--install", is_flag=True, help="Of what foldrank is installed with, in the place of a bundle.")
@click.option("-o", "--output", "output_", type=options.PATH, required=True, metavar="FILE", help="File to write.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@options.reporting
def command(
    bundle: Path | None, install: bool, output_: Path, force: bool, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Write a bill of materials (CycloneDX 1.6 JSON) of a bundle or of this install."""
    from foldrank.verbs.sbom import sbom

    found = options.usage(sbom, bundle, output_, install=install, force=force)
    output.emit_json(found) if as_json else output.say(f"{found['output']}: {found['components']} components")
