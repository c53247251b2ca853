"""docs/quality.md from quality.json, and its picture: python -m foldrank.benchmarks.quality_page quality.json docs

A test renders the page again from the committed JSON and compares.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click

from foldrank.benchmarks.quality_picture import OURS, best_by_keep, picture

HEAD = """# Quality by method and size

Perplexity over that of the dense model on {tokens:,} held-out tokens ({text}), median over
the calibration seeds that were run, at most {seeds} (lowest to highest in brackets), without recovery where not
said otherwise. `keep` is what
was asked of the decoder blocks' weights; methods that remove whole blocks can only go below it. Made by
`foldrank.benchmarks.quality`, written from [`quality.json`](../benchmarks/results/quality.json), which has every cell.
Windows are as long as the dense model can use: where its loss rises within 512 tokens, 256 or fewer.

![loss added against the share of block weights kept, one line a method at its best settings](quality.svg)
"""


def page(found: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    cells = list(found["cells"].values())
    held = found["held_out"]
    parts = [HEAD.format(**held, seeds=len({cell["seed"] for cell in cells}))]
    for model in sorted({cell["model"] for cell in cells}):
        held_here = [cell for cell in cells if cell["model"] == model]
        mine = [cell for cell in held_here if not cell["recover"]]
        dense = found["dense"][model]
        parts += [f"## {model}\n", f"Dense perplexity {dense['perplexity']:.2f}, windows of {dense['window']}.\n"]
        parts += [_table(mine, "perplexity_ratio", "{:.3f}")]
        parts += ["KL(dense || compressed), nats:\n", _table(mine, "kl_nats", "{:.3f}")]
        parts += ["Top-1 agreement:\n", _table(mine, "top1_agreement", "{:.3f}")]
        parts += ["Share of the block weights kept:\n", _table(mine, "kept", "{:.3f}")]
        parts += ["Planning, seconds, " + _places(mine) + ":\n", _table(mine, "planning_s", "{:.0f}")]
        parts += _timed([cell for cell in mine if "decode" in cell])
        parts += _recovered([cell for cell in held_here if cell["recover"] and "refused" not in cell])
    return "\n".join(parts)


def summary(found: Mapping[str, Any], recovered: bool = False) -> str:
    """One row a model and keep: the best baseline, the best settings of ours, perplexity over dense (medians)."""
    cells = [cell for cell in found["cells"].values()
             if "perplexity_ratio" in cell and bool(cell["recover"]) == recovered]
    rows = []
    for model in sorted({cell["model"] for cell in cells}):
        methods = best_by_keep(cell for cell in cells if cell["model"] == model)
        for keep in sorted({keep for points in methods.values() for keep in points}, reverse=True):
            best = {name: points[keep][1:] for name, points in methods.items() if keep in points}
            others = [best[name] for name in best if name not in OURS]
            baseline = "{:.3f} (`{}`)".format(*min(others)) if others else ""
            ours = (f"{best[name][0]:.3f}" if name in best else "" for name in ("slm", "dipsvd", "auto"))
            rows.append((model, f"{keep:g}", baseline, *ours))
    head = ("model", "keep", "best baseline", "slm", "dipsvd, best settings", "auto")
    return _rows(head, rows).rstrip("\n")


def _places(cells: list[dict[str, Any]]) -> str:
    """Where cells were planned, and which methods: seconds of different machines do not compare."""
    places: dict[str, set[str]] = {}
    for cell in cells:
        where = cell["where"]
        name = where["cpu"] if where["device"] == "cpu" else where["device"]
        threads = f", {where['threads']} thread" if where["device"] == "cpu" else ""
        places.setdefault(f"{name}{threads}", set()).add(cell["method"].split(":")[0])
    return "; ".join(f"on {place}: {', '.join(sorted(methods))}" for place, methods in sorted(places.items()))


def _timed(cells: list[dict[str, Any]]) -> list[str]:
    """What was timed, one row a cell."""
    rows = [
        (f"`{cell['method']}`", f"{cell['keep']:g}", f"{cell['bytes_ratio']:.3f}", f"{cell['decode']['ratio']:.3f}",
         "{:.3f} to {:.3f}".format(*cell["decode"]["ci95"]), f"{cell['decode']['ideal']:.3f}")
        for cell in sorted(cells, key=lambda cell: (-cell["keep"], cell["method"]))
    ]
    head = ("method", "keep", "graph and weights, of dense bytes", "decode, times dense", "95 % interval", "ideal")
    title = "CPU decoding at batch 1, fp32 (`foldrank.benchmarks.quality_decode`):\n"
    return [title, _rows(head, rows)] if rows else []


def _recovered(cells: list[dict[str, Any]]) -> list[str]:
    """The same after recovery, with what was trained and on how much."""
    if not cells:
        return []
    spent = Counter((cell["recovery_tokens"], cell["recovery_steps"]) for cell in cells)
    most = "; ".join(f"{steps} steps on {tokens:,} tokens ({count} of {len(cells)} cells)"
                     for (tokens, steps), count in spent.most_common())
    return [
        f"After recovery, {most}. Perplexity over dense:\n", _table(cells, "perplexity_ratio", "{:.3f}"),
        "KL(dense || recovered), nats:\n", _table(cells, "kl_nats", "{:.3f}"),
    ]


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _table(cells: list[dict[str, Any]], figure: str, form: str) -> str:
    keeps = sorted({cell["keep"] for cell in cells}, reverse=True)
    lines = []
    for method, kind in sorted({(cell["method"], cell["recover"] or "") for cell in cells}):
        mine = [cell for cell in cells if (cell["method"], cell["recover"] or "") == (method, kind)]
        entries = (_entry([cell for cell in mine if cell["keep"] == keep], figure, form) for keep in keeps)
        lines.append((f"`{method}` after `{kind}`" if kind else f"`{method}`", *entries))
    return _rows(("method", *(f"keep {keep:g}" for keep in keeps)), lines)


def _entry(cells: Iterable[dict[str, Any]], figure: str, form: str) -> str:
    values = sorted(cell[figure] for cell in cells if figure in cell)
    if not values:
        return "out of reach" if list(cells) else ""
    middle = form.format(median(values))
    low, high = form.format(values[0]), form.format(values[-1])
    return middle if low == high else f"{middle} ({low} to {high})"


@click.command()
@click.argument("results", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def main(results: Path, folder: Path) -> None:
    """Write quality.md and quality.svg into the folder."""
    found = json.loads(results.read_text(encoding="utf-8"))
    (folder / "quality.md").write_text(page(found), encoding="utf-8")
    picture(found, folder / "quality.svg")


if __name__ == "__main__":
    main()
