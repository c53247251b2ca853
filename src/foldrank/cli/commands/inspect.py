"""foldrank inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foldrank.cli import options, output, plans
from foldrank.reporting.batches import batches


@click.command("inspect")
@click.argument("path", type=options.PATH)
@options.reporting
def command(path: Path, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Show what a bundle, an .onnx file, a checkpoint or a plan holds."""
    from foldrank.verbs.inspect import inspect

    found = inspect(path)
    if as_json:
        output.emit_json(found)
    elif found["kind"] == "plan":
        from foldrank.planfile.plan import Plan

        plans.show(Plan.read(path))
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    kv = found.get("kv") or {}
    facts = [found["kind"], found.get("dialect"), f"{found['blocks']} blocks", f"{found['parameters']:,} parameters",
             output.mebibytes(found["bytes"]), "tied head" if found.get("tied") else "untied head"]
    facts += [f"stream {what}" for what in ("centred", "rotated") if what in found]
    facts += [f"{name} in {few}" for name, few in (found.get("tables") or {}).items() if few]
    facts += [f"{name} a pair of rank {rank}" for name, rank in found.get("table_ranks", {}).items()]
    if kv:
        facts.append(f"KV {kv['pairs']} x {kv['heads']} heads x {kv['head_size']}")
    output.say(", ".join(fact for fact in facts if fact))
    if "gguf" in found:
        output.say(f"as floats; {found['gguf']} holds it in {output.mebibytes(found['gguf_bytes'])} "
                   f"({', '.join(found['gguf_types'])})")
    if told := batches(found):
        output.say(told)
    beside = ("beside",) if any("beside" in site for site in found["sites"]) else ()
    reads = ("reads",) if any("reads" in site for site in found["sites"]) else ()
    output.table("", ("site", "in", "out", "dtype", "rank", *beside, *reads), (
        (s["site"], *s["shape"], s["dtype"], s["rank"], *(_ranks(s.get("beside", {})) for _ in beside),
         *(s.get("reads") for _ in reads)) for s in found["sites"]))


def _ranks(beside: dict[str, int]) -> str | None:
    """Of the pairs beside a site: one rank, or role by role."""
    if len(set(beside.values())) > 1:
        return ", ".join(f"{role} {rank}" for role, rank in beside.items())
    return str(next(iter(beside.values()))) if beside else None
