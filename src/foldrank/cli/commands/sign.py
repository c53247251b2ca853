"""foldrank sign."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output


@click.command("sign")
@click.argument("bundle", type=options.PATH)
@click.option("--private-key", type=options.PATH, required=True, metavar="PEM", help="P-256, P-384 or P-521.")
@click.option("--password-file", type=options.PATH, metavar="FILE", help="The key's password, on one line.")
@click.option("-o", "--output", "output_", type=options.PATH, metavar="FILE", help="Default: DIR.sig beside it.")
@click.option("--force", is_flag=True, help="Replace the signature if it exists.")
@options.reporting
def command(
    bundle: Path, private_key: Path, password_file: Path | None, output_: Path | None, force: bool, as_json: bool,
    quiet: bool, verbose: bool,
) -> None:
    """Sign a bundle with a key (extra `sign`); comes last, since reports added later are not signed."""
    from foldrank.verbs.sign import sign

    found = sign(bundle, output_, private_key=private_key, password_file=password_file, force=force)
    output.emit_json(found) if as_json else output.say(found["signature"])
