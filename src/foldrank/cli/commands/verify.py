"""foldrank verify."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output


@click.command("verify")
@click.argument("path", type=options.PATH)
@click.option("--public-key", type=options.PATH, metavar="PEM", help="The signer's: the bundle must be signed by it.")
@click.option("--signature", type=options.PATH, metavar="FILE", help="Default: DIR.sig beside the bundle.")
@click.option("--require-signature", is_flag=True, help="Refuse to go on without --public-key.")
@options.reporting
def command(
    path: Path, public_key: Path | None, signature: Path | None, require_signature: bool, as_json: bool, quiet: bool,
    verbose: bool,
) -> None:
    """Check a bundle, or a plan, against its digests and its signature."""
    from foldrank.verbs.verify import verify

    found = options.usage(verify, path, public_key=public_key, signature=signature, require_signature=require_signature)
    if as_json:
        output.emit_json(found)
        return
    for check in found["checks"]:
        output.say(f"{check['check']}: {check['found']}")
    for check in found["not_checked"]:
        output.say(f"not checked: {check['check']}: {check['why']}")
