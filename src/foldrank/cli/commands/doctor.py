"""foldrank doctor."""

from __future__ import annotations

import click

from foldrank.cli import options, output


@click.command("doctor")
@options.reporting
def command(as_json: bool, quiet: bool, verbose: bool) -> None:
    """Show what is installed, which providers really start, and the fix for each conflict."""
    from foldrank.verbs.doctor import doctor

    found = doctor()
    if as_json:
        output.emit_json(found)
        return
    output.table("installed", ("package", "version"), found["versions"].items())
    output.table("\nproviders", ("provider", "starts", "reason"),
                 ((p["name"], p["starts"], p.get("reason")) for p in found["providers"]))
    if not found["problems"]:
        output.say("\nno conflicts")
    for problem in found["problems"]:
        output.say(f"\nproblem: {problem['what']}\n    fix: {problem['fix']}")
