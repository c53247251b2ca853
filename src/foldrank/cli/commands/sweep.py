"""foldrank sweep."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output, progress


@click.command("sweep")
@click.argument("recipe", type=options.PATH)
@click.option("--model", help="The checkpoint; default: the recipe's `model`.")
@click.option("--grid", multiple=True, required=True, metavar="KEY=A,B",
              help="Repeatable, an axis each: method=slm,dipsvd; keep=0.9,0.8 (of every method); or a KEY of --set.")
@click.option("-o", "--output", "output_", type=options.PATH, required=True,
              help="Folder to write; one that is there is gone on with.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Candidates at once.")
@click.option("--ray", metavar="ADDRESS",
              help="A Ray cluster (HOST:PORT, or auto) on whose nodes candidates run, in the place of --jobs.")
@click.option("--dense", type=options.PATH, help="The dense bundle; default: exported once into the folder.")
@click.option("--proof/--no-proof", default=True, help="Whether each candidate's graph is proved.")
@click.option("--tokens", type=click.IntRange(min=1), default=20_480, show_default=True,
              help="Of held-out text, to judge each by.")
@click.option("--track", envvar="MLFLOW_TRACKING_URI", metavar="URI",
              help="An MLflow tracker, a run for each candidate; default: MLFLOW_TRACKING_URI, where it is set.")
@click.option("--device", default="cpu", show_default=True, help="Where PyTorch computes.")
@options.source
@options.reporting
@click.pass_context
def command(
    ctx: click.Context, recipe: Path, model: str | None, grid: tuple[str, ...], output_: Path, jobs: int,
    ray: str | None, dense: Path | None, proof: bool, tokens: int, track: str | None, device: str, offline: bool,
    trust_remote_code: bool, as_json: bool, quiet: bool, verbose: bool,
) -> None:
    """Try every combination of a grid over a recipe; the same command goes on where it was interrupted.

    Exit code 1 where a candidate failed.
    """
    from foldrank.verbs.sweep import sweep

    with progress.shown(quiet) as shown:
        found = options.usage(
            sweep, recipe, model, output_, grid=grid, jobs=jobs, ray=ray, dense=dense, proof=proof, tokens=tokens,
            tracking_uri=track, device=device, offline=offline, trust_remote_code=trust_remote_code, progress=shown)
    if as_json:
        output.emit_json(found)
    else:
        output.table("candidates", ("", "candidate", "graph and weights", "KL, nats", "perplexity over dense"), (
            ("front" if one["name"] in found["front"] else one["verdict"],
             " ".join(f"{key}={value}" for key, value in one["changes"].items()), output.mebibytes(one["bytes"]),
             one["quality"]["kl_nats"], one["quality"]["perplexity_ratio"])
            for one in sorted(found["candidates"], key=lambda one: one["bytes"])))
        for name, said in found["failed"].items():
            output.say(f"failed: {name}: {said}")
        output.say(f"{len(found['front'])} on the front, {found['done_before']} were done before: {output_}/front.md")
    ctx.exit(int(bool(found["failed"])))
