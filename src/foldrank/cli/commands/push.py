"""foldrank push."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output, progress


@click.command("push")
@click.argument("bundle", type=options.PATH)
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--dry-run", is_flag=True, help="Prove the bundle and list what would be sent; send nothing.")
@click.option("--private", is_flag=True, help="Where the repository is made by this.")
@click.option("--revision", help="Branch; default: main.")
@click.option("--pull-request", is_flag=True, help="As a pull request.")
@click.option("--message", help="Of the commit.")
@options.reporting
def command(
    bundle: Path, repo: str, dry_run: bool, private: bool, revision: str | None, pull_request: bool,
    message: str | None, as_json: bool, quiet: bool, verbose: bool,
) -> None:
    """Upload a bundle and its card to the Hugging Face Hub, in one commit."""
    from foldrank.verbs.push import push

    with progress.shown(quiet) as shown:
        found = options.usage(push, bundle, repo, dry_run=dry_run, private=private, revision=revision,
                              pull_request=pull_request, message=message, progress=shown)
    if as_json:
        output.emit_json(found)
        return
    output.table("files", ("file", "size"), ((name, output.mebibytes(entry["bytes"]))
                                             for name, entry in found["files"].items()))
    told = f"{len(found['files'])} files, {output.mebibytes(found['bytes'])}"
    if dry_run:
        output.say(f"{repo}: {told} would be sent")
    else:
        output.say(f"{repo}: {told} sent, {len(found['removed'])} old ones removed; {found['url']}")
