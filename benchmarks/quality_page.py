"""docs/quality.md from quality.json, and its picture: python -m foldrank.benchmarks.quality_page quality.json docs

A test renders the page again from the committed JSON and compares.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        timed = [cell for cell in mine if "planning_s" in cell or "refused" in cell]  # not of starved runs
        parts += ["Planning, seconds, " + _places(timed) + ":\n", _table(timed, "planning_s", "{:.0f}")]
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
            ours = (f"{best[name][0]:.3f}" if name in best else "" for name in reversed(OURS))
            rows.append((model, f"{keep:g}", baseline, *ours))
    head = ("model", "keep", "best baseline", *reversed(OURS))
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
    """Speed and size of what was timed, and where."""
    if not cells:
        return []
    places = ", ".join(sorted({cell["decode"]["cpu"] for cell in cells}))
    title = (f"CPU decoding at batch 1, fp32, times dense [95 % interval] of ideal, on {places}; graphs of one form "
             "are timed once (`foldrank.benchmarks.quality_decode`):\n")
    return [title, _grid(cells, _speed), "Graph and weights, of dense bytes:\n",
            _table(cells, "bytes_ratio", "{:.3f}")]


def _speed(cells: list[dict[str, Any]]) -> str:
    """Every seed that was timed."""
    each = (cell["decode"] for cell in sorted(cells, key=lambda cell: cell["seed"]))
    return "; ".join("{:.2f} [{:.2f}, {:.2f}] of {:.2f}".format(one["ratio"], *one["ci95"], one["ideal"])
                     for one in each)


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
    return _grid(cells, lambda held: _entry(held, figure, form))


def _grid(cells: list[dict[str, Any]], entry: Callable[[list[dict[str, Any]]], str]) -> str:
    """One row a method (and kind of recovery), one column a keep."""
    keeps = sorted({cell["keep"] for cell in cells}, reverse=True)
    lines = []
    for method, kind in sorted({(cell["method"], cell["recover"] or "") for cell in cells}):
        mine = [cell for cell in cells if (cell["method"], cell["recover"] or "") == (method, kind)]
        entries = (entry([cell for cell in mine if cell["keep"] == keep]) for keep in keeps)
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
