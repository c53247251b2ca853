"""From which size and rank a pair pays on a device: python -m foldrank.benchmarks.gpu_costs -o FILE

Cost tables (`cost_table.py`) of the shapes of random Llamas of several sizes, fp16, one token at a time, each product
inside a CUDA graph with more weights than the card caches. What `foldrank bench --cost-table` measures of a bundle,
without making the bundles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foldrank import strictjson
from foldrank.benchmarks.bandwidth import device_bandwidth
from foldrank.benchmarks.cost_table import group_shapes, measure_costs
from foldrank.benchmarks.products import weight_bytes
from foldrank.benchmarks.random_checkpoint import Shape, parse_size, shape_of
from foldrank.disk.staging import write_atomically
from foldrank.edits.low_rank import rank_limit
from foldrank.plans.solver.costs import CostTable, interpolated
from foldrank.runtime.providers.provider import resolve
from foldrank.runtime.sessions.session import default_threads

KEEPS = (0.8, 0.6, 0.4)
"""Shares of W's numbers that the described pairs keep."""


def sites(shape: Shape) -> list[dict[str, Any]]:
    """Sites of one block, as `inspect` lists those of a bundle of onnxruntime-genai's builder."""
    held = {name.partition(".")[2].removesuffix("_proj"): size for name, size in shape.linears.items()}
    n_out = {role: size[0] for role, size in held.items()} | {"qkv": sum(held[role][0] for role in "qkv")}
    n_in = {role: size[1] for role, size in held.items()} | {"qkv": shape.hidden}
    return [{"site": f"block.00.{role}", "shape": [n_in[role], n_out[role]]}
            for role in ("qkv", "o", "gate", "up", "down")]


def described(table: CostTable) -> list[dict[str, Any]]:
    """Per shape: dense time and bandwidth, the largest rank that pays, and speed over dense of pairs by kept share."""
    return [
        {
            "shape": list(timing.shape), "dense_us": timing.dense_ms * 1e3,
            "bytes_per_s": weight_bytes(timing.shape, table.environment["dtype"]) / timing.dense_ms * 1e3,
            "pays_to_rank": timing.pays_to, "saves_to_rank": rank_limit(*timing.shape),
            "speed_of_pairs": {
                str(keep): timing.dense_ms / interpolated(timing.pair_ms, round(keep * rank_limit(*timing.shape)))
                for keep in KEEPS
            },
        }
        for timing in table.timings
    ]


def measured(size: str, provider: str, dtype: str, tokens: int) -> dict[str, Any]:
    """The table of a size, what it says, and the bandwidth of the same run."""
    on, shape = resolve(provider), shape_of(parse_size(size))
    table = measure_costs(group_shapes(sites(shape)), on, threads=default_threads(), dtype=dtype, tokens=tokens)
    return {"size": size, "parameters": shape.parameters, "rows": described(table),
            "bandwidth_bytes_per_s": device_bandwidth(on), "table": strictjson.loads(table.text())}


@click.command()
@click.option("--parameters", "sizes", multiple=True, default=["100M", "1B", "3B", "7B"])
@click.option("--provider", default="cuda")
@click.option("--dtype", type=click.Choice(["fp16", "fp32"]), default="fp16")
@click.option("--tokens", default=1)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(sizes: tuple[str, ...], provider: str, dtype: str, tokens: int, output: Path) -> None:
    """Measure every size, writing the JSON file after each."""
    found = []
    for size in sizes:
        found.append(measured(size, provider, dtype, tokens))
        for row in found[-1]["rows"]:
            click.echo(f"{size} {row['shape']}: dense {row['dense_us']:.1f} us, pays to {row['pays_to_rank']} "
                       f"of {row['saves_to_rank']}, {row['speed_of_pairs']}")
        result = {"provider": provider, "dtype": dtype, "tokens": tokens, "sizes": found}
        write_atomically(output.absolute(), strictjson.dumps(result).encode())


if __name__ == "__main__":
    main()
