"""foldrank export."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output, progress


@click.command("export")
@click.argument("model")
@options.output
@options.exporting
@click.option("--from", "graph", type=options.PATH, help="An .onnx file or its folder that --exporter made earlier.")
@options.provider
@options.source
@options.seed
@options.reporting
def command(
    model: str, output_: Path, force: bool, exporter: str | None, graph: Path | None, dtype: str | None,
    provider: str | None, provider_options: dict[str, str], offline: bool, trust_remote_code: bool, seed: int,
    as_json: bool, quiet: bool, verbose: bool,
) -> None:
    """Export a checkpoint folder or hub id to a dense ONNX bundle."""
    from foldrank.verbs.export import export

    with progress.shown(quiet) as shown:
        bundle = options.usage(
            export, model, output_, exporter=exporter or "auto", dtype=dtype or "fp32", provider=provider or "cpu",
            force=force, offline=offline, trust_remote_code=trust_remote_code, seed=seed, graph=graph,
            progress=shown,
        )
    files = {name: entry.bytes for name, entry in bundle.manifest.files.items()}
    manifest = bundle.manifest
    if as_json:
        output.emit_json({"bundle": str(bundle.path), "files": files, "exporter": manifest.exporter,
                          "exporter_reason": manifest.exporter_reason, "dtype": manifest.dtype,
                          "notes": manifest.notes})
    else:
        why = f" ({manifest.exporter_reason})" if manifest.exporter_reason else ""
        output.say(f"{bundle.path}: {manifest.exporter}{why}, {manifest.dtype}, "
                   f"{output.mebibytes(sum(files.values()))}")
