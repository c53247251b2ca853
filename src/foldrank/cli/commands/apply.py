"""foldrank apply."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output, progress


@click.command("apply")
@click.argument("bundle", type=options.PATH)
@click.argument("plan", type=options.PATH)
@options.output
@click.option("--link-data", is_flag=True, help="For trials: share the old data file's blocks on disk; only where no "
              "weight changes, on file systems that can (btrfs, XFS).")
@options.seed
@options.reporting
def command(
    bundle: Path, plan: Path, output_: Path, force: bool, link_data: bool, seed: int, as_json: bool, quiet: bool,
    verbose: bool,
) -> None:
    """Apply a plan to a dense bundle, in the ONNX graph. Needs neither torch nor ONNX Runtime."""
    from foldrank.reports.form import plain
    from foldrank.reports.receipts import FORM
    from foldrank.verbs.apply import apply

    with progress.shown(quiet) as shown:
        made = options.usage(apply, bundle, plan, output_, seed=seed, force=force, progress=shown,
                             link_data=link_data)
    size = sum(entry.bytes for entry in made.manifest.files.values())
    if as_json:
        found = FORM.read(made)
        output.emit_json({"bundle": str(made.path), "bytes": size, "receipts": plain(found and found.receipts)})
    else:
        output.say(f"{made.path}: {output.mebibytes(size)}")
