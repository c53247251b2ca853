"""Write the figures of the README from the committed JSON: python -m foldrank.benchmarks.readme README.md

A test renders them again and compares, so that a figure without its file cannot stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_PLACE = re.compile(r"(<!-- figures: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@click.command()
@click.argument("readme", type=click.Path(path_type=Path, exists=True))
def main(readme: Path) -> None:
    """Fill every `<!-- figures: NAME -->` of the README from benchmarks/results/NAME.json beside it."""
    results = readme.parent / "benchmarks" / "results"
    readme.write_text(filled(readme.read_text(encoding="utf-8"), results), encoding="utf-8")


def filled(text: str, results: Path) -> str:
    """The text with every place filled. Raises KeyError for a name without a table, FileNotFoundError without JSON."""
    def fill(match: re.Match[str]) -> str:
        data = json.loads((results / f"{match[2]}.json").read_text(encoding="utf-8"))
        return f"{match[1]}{TABLES[match[2]](data)}\n{match[4]}"

    return _PLACE.sub(fill, text)


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _demo(data: dict[str, Any]) -> str:
    quality, graph, decode = data["quality"], data["graph"], data["decode"]
    dense_bytes, small_bytes = data["model_bytes"]["dense"], data["model_bytes"]["compressed"]
    environment = data["environment"]
    return _table(("", "dense", "compressed"), [
        ("graph and weights", _mib(dense_bytes), f"{_mib(small_bytes)} (x{small_bytes / dense_bytes:.2f})"),
        ("weights of the decoder blocks", "1.00", f"{data['predicted']['keep']:.2f}"),
        (f"perplexity, {quality['tokens']:,} held-out tokens", f"{quality['dense_perplexity']:.1f}",
         f"{quality['perplexity']:.1f} (x{quality['perplexity_ratio']:.3f})"),
        ("KL from dense, nats a token", "0", f"{quality['kl_nats']:.3f}"),
        ("top-1 agreement with dense", "100 %", f"{quality['top1_agreement']:.1%}"),
        ("graph proof: largest error / largest logit", "",
         f"{graph['max_relative_error']:.1e} over {graph['positions']:,} positions, argmax agreement "
         f"{graph['argmax_agreement']:.2%}"),
        (f"decode speed, batch 1, {decode['engine']}", "1.00",
         f"{decode['ratio']:.2f} [{decode['ci95'][0]:.2f}, {decode['ci95'][1]:.2f}], ideal {decode['ideal']:.2f}"),
    ]) + (f"\n\n{data['wall_s']:.0f} s in all on {environment['cpu_model']}, {environment['threads']} threads. "
          f"Null test, dense against dense: {data['null_test']['ratio']:.3f} "
          f"[{data['null_test']['ci95'][0]:.3f}, {data['null_test']['ci95'][1]:.3f}].")


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"demo": _demo}


if __name__ == "__main__":
    main()
