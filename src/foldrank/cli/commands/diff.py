"""foldrank diff."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output


@click.command("diff")
@click.argument("a", type=options.PATH)
@click.argument("b", type=options.PATH)
@options.reporting
def command(a: Path, b: Path, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Show how two plans, or two bundles, differ."""
    from foldrank.verbs.diff import diff

    found = diff(a, b)
    if as_json:
        output.emit_json(found)
    elif found["same"]:
        output.say("no difference")
    else:
        output.table("", ("what", str(a), str(b)), ((d["what"], d["a"], d["b"]) for d in found["differences"]))
