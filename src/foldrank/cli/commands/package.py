"""foldrank package."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output, progress


@click.command("package")
@click.argument("bundle", type=options.PATH)
@click.option("--format", "format_", required=True,
              help="Whose layout: transformers.js, triton (a model repository), mlflow (a pyfunc), ort (ORT format), "
                   "multi-lora (adapters that are exchanged), docker (a folder to build); or one file: zip, oci (an "
                   "image layout, for registries).")
@click.option("--no-plan", is_flag=True,
              help="Whole bundles (zip, oci, docker, mlflow, triton) go without their plan, whose numbers may take as "
                   "much as the weights: they run and test themselves, and `validate` refuses them.")
@options.output
@options.reporting
def command(
    bundle: Path, format_: str, no_plan: bool, output_: Path, force: bool, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Write a bundle in the layout of another tool."""
    from foldrank.verbs.package import package

    with progress.shown(quiet) as shown:
        found = options.usage(package, bundle, output_, format=format_, plan=not no_plan, force=force, progress=shown)
    if as_json:
        output.emit_json(found)
    else:
        size, count = sum(entry["bytes"] for entry in found["files"].values()), len(found["files"])
        output.say(f"{output_}: {found['format']}, {count} file{'s' if count > 1 else ''}, {output.mebibytes(size)}")
