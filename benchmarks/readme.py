"""Write the figures of README and docs from the committed JSON:

    python -m foldrank.benchmarks.readme README.md docs/families.md

A test renders them again and compares, so that a figure without its file cannot stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from foldrank.benchmarks.families_table import consumers, families
from foldrank.benchmarks.quality_page import summary
from foldrank.benchmarks.smollm2_tables import branches, draws, front, minutes, speeds, widths
from foldrank.benchmarks.tables import table

_PLACE = re.compile(r"(<!-- figures: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@click.command()
@click.argument("pages", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--results", type=click.Path(path_type=Path, exists=True), default=Path("benchmarks/results"))
def main(pages: tuple[Path, ...], results: Path) -> None:
    """Fill every `<!-- figures: NAME -->` of the pages from NAME.json among the results."""
    for page in pages:
        page.write_text(filled(page.read_text(encoding="utf-8"), results), encoding="utf-8")


def filled(text: str, results: Path) -> str:
    """The text with every place filled. Raises KeyError for a name without a table, FileNotFoundError without JSON."""
    def fill(match: re.Match[str]) -> str:
        source = SOURCES.get(match[2], match[2])
        data = json.loads((results / f"{source}.json").read_text(encoding="utf-8"))
        return f"{match[1]}{TABLES[match[2]](data)}\n{match[4]}"

    return _PLACE.sub(fill, text)


def _demo(data: dict[str, Any]) -> str:
    quality, graph, decode = data["quality"], data["graph"], data["decode"]
    dense_bytes, small_bytes = data["model_bytes"]["dense"], data["model_bytes"]["compressed"]
    environment = data["environment"]
    return table(("", "dense", "compressed"), [
        ("graph and weights", _mib(dense_bytes), f"{_mib(small_bytes)} (x{small_bytes / dense_bytes:.2f})"),
        (f"perplexity, {quality['tokens']:,} held-out tokens", f"{quality['dense_perplexity']:.1f}",
         f"{quality['perplexity']:.1f} (x{quality['perplexity_ratio']:.3f})"),
        ("KL from dense, nats a token", "0", f"{quality['kl_nats']:.3f}"),
        ("top-1 agreement with dense", "100 %", f"{quality['top1_agreement']:.1%}"),
        _proof(graph),
        (f"decode speed, batch 1, {decode['engine']}", "1.00",
         f"{decode['ratio']:.2f} [{decode['ci95'][0]:.2f}, {decode['ci95'][1]:.2f}], ideal {decode['ideal']:.2f}"),
        *((f"speed of a prompt of {entry['prompt_tokens']} tokens, {entry['engine']}", "1.00",
           f"{entry['ratio']:.2f} [{entry['ci95'][0]:.2f}, {entry['ci95'][1]:.2f}]")
          for entry in data["speedups"] if entry["phase"] == "prefill" and entry["engine"] == decode["engine"]),
    ]) + (f"\n\n{data['wall_s']:.0f} s in all on {environment['cpu_model']}, {environment['threads']} threads. "
          f"Null test, dense against dense: {data['null_test']['ratio']:.3f} "
          f"[{data['null_test']['ci95'][0]:.3f}, {data['null_test']['ci95'][1]:.3f}].")


def _proof(graph: dict[str, Any]) -> tuple[str, str, str]:
    if graph["measure"] == "kl_nats":  # activations are rounded to int8
        return ("graph proof: mean KL from PyTorch with the plan", "",
                f"{graph['kl_nats']:.1e} nats over {graph['positions']:,} positions, limit {graph['limit']:.1e}")
    return ("graph proof: largest error / largest logit", "",
            f"{graph['max_relative_error']:.1e} over {graph['positions']:,} positions, argmax agreement "
            f"{graph['argmax_agreement']:.2%}")


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _cpu_speed(data: dict[str, Any]) -> str:
    rows = [
        (entry["plan"].replace("_", " "), entry["engine"], str(entry["prompt_tokens"]),
         f"{entry['ratio']:.2f} [{entry['ci95'][0]:.2f}, {entry['ci95'][1]:.2f}]", f"{entry['ideal']:.2f}",
         f"{entry['realised_over_ideal']:.2f}", "" if entry["stable"] else "unstable")
        for entry in data["decoding"]
    ]
    columns = ("plan", "engine", "context", "decode speed over dense, 95 %", "ideal", "realised / ideal", "")
    said = ", ".join(f"{n['ratio']:.3f} [{n['ci95'][0]:.3f}, {n['ci95'][1]:.3f}] after {n['prompt_tokens']} tokens"
                     for n in data["null_tests"])
    targets = "\n".join(
        f"* {t['target']}: {t['value']:.3g} {t['bound']}, {t['limit']:g} asked{'' if t['reached'] else ': **missed**'}"
        for t in data["targets"]
    )
    return f"{table(columns, rows)}\n\nDense against dense in the same runs, taken together: {said}.\n\n{targets}"


def _huge_pages(data: dict[str, Any]) -> str:
    rows = "; ".join(
        f"{row['ratio']:.2f} [{row['ci95'][0]:.2f}, {row['ci95'][1]:.2f}] after {row['prompt_tokens']} tokens"
        for row in data["rows"]
    )
    engines = ", ".join(dict.fromkeys(row["engine"] for row in data["rows"]))
    return (f"In huge pages (`GLIBC_TUNABLES={data['tunables']['huge']}`) the dense model decodes so many times "
            f"as fast as in small ones: {rows} ({engines}).")


def _llama_cpp(data: dict[str, Any]) -> str:
    sizes, environment, entries = data["model_bytes"], data["environment"], data["peers"]["entries"]
    rows = [("files", f"{sizes['compressed'] / 1e6:.0f} MB", f"{sizes['gguf'] / 1e6:.0f} MB", "")]
    for one in entries:
        tokens = one["prompt_tokens"] if one["phase"] == "prefill" else 1
        ours, theirs = (f"{1e3 * tokens / one[key]:,.0f} tokens/s" for key in ("ours_ms", "theirs_ms"))
        what = "prompt of {} tokens" if one["phase"] == "prefill" else "decoding after {}"
        rows.append((what.format(one["prompt_tokens"]), ours, theirs,
                     f"{one['ratio']:.2f} [{one['ci95'][0]:.2f}, {one['ci95'][1]:.2f}]"
                     f"{'' if one['stable'] else ', unstable'}"))
    rates = table(("", f"4-bit bundle in {data['peers']['engine']}", "llama.cpp", "ours over llama.cpp"), rows)
    least = "; ".join(
        f"{'prompt of' if one['phase'] == 'prefill' else 'decoding after'} {one['prompt_tokens']} {one['ours']:.1f} "
        f"against {one['theirs']:.1f} ms ({one['theirs'] / one['ours']:.2f})" for one in data["cpu_time"])
    return (f"{rates}\n\nCPU time of one thread, to the first token or per token: {least}. "
            f"Wall time above: batch 1, {_threads(environment['threads'])} of {environment['cpu_model']}, load average "
            f"{environment['load_average'][0]:.0f} on {environment['logical_cores']} cores. llama.cpp ran "
            f"{entries[0]['what']}.")


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _few_bits(data: dict[str, Any]) -> str:
    rows = [
        (row["model"], " ".join(f"`{method}`" for method in row["methods"]),
         f"{row['bytes'] / row['dense_bytes']:.3f}", f"{row['perplexity_ratio']:.3f}", f"{row['kl_nats']:.4f}",
         f"{row['top1_agreement']:.3f}")
        for row in data["rows"]
    ]
    return table(("model", "methods", "graph and weights, of dense bytes", "perplexity over dense", "KL, nats",
                   "top-1 agreement"), rows)


def _planning(data: dict[str, Any]) -> str:
    search = data["search"]
    same = "identical" if data["identical_decisions"] else "DIFFERENT"
    return (f"SLM's search for keep={data['keep']} on {data['model']} took {search['planner_s']:.1f} s, the naive "
            f"procedure {search['naive_s']:.1f} s ({search['ratio']:.1f} times as long), with {same} decisions.")


def _apply_cost(data: dict[str, Any]) -> str:
    rows = [
        (name.replace("_", " "), f"{found['output_bytes'] / 2**20:.0f} MiB",
         f"{found['ratio']:.2f} [{found['ci95'][0]:.2f}, {found['ci95'][1]:.2f}]",
         f"{found['peak_bytes'] / 2**20:.0f} MiB", f"{found['peak_bytes_limit'] / 2**20:.0f} MiB")
        for name, found in sorted(data.items())
    ]
    return table(("plan", "output", "time / time of copying the output", "peak memory", "limit"), rows)


def _big_bundle(data: dict[str, Any]) -> str:
    ratio, load = data["ratio_to_copy"]["apply"], data["environment"]["load_average"][0]
    return (f"A fold of a quarter of the blocks of {data['bundle_bytes'] / 1e9:.1f} GB took {ratio['ratio']:.2f} "
            f"[{ratio['ci95'][0]:.2f}, {ratio['ci95'][1]:.2f}] times a copy of what it wrote, with "
            f"{data['peak_bytes'] / 2**20:.0f} MiB of memory at most (load average {load:.0f} on "
            f"{data['environment']['logical_cores']} cores).")


def _planning_search(data: dict[str, Any]) -> str:
    found = {name: data[name] for name in ("naive", "search", "default")}
    said = {name: f"{one['seconds']:.0f} s, perplexity {one['perplexity_ratio']:.3f} of dense"
            for name, one in found.items()}
    return (f"DipSVD's published search ({data['evaluations']} evaluations, keep={data['keep']}, {data['model']}) run "
            f"naively: {said['naive']}; the same search over one decomposition: {said['search']}; the closed form "
            f"that `dipsvd` uses instead: {said['default']} ({data['naive_over_default']:.0f} times as fast as naive).")


def _gpu_speed(data: dict[str, Any]) -> str:
    rows, nulls = [], []
    for case in data["cases"]:
        how = f"{case['engine']}{', CUDA graph' if case['cuda_graph'] else ''}"
        nulls.append(f"{how} {case['null_test']['ratio']:.3f} [{case['null_test']['ci95'][0]:.3f}, "
                     f"{case['null_test']['ci95'][1]:.3f}]")
        for name, rival in case["rivals"].items():
            times = {(row["bundle"], row["batch"]): row["tpot_ms"] for row in rival["rows"]}
            rows += [
                (how, name, str(one["batch"]), f"{times['dense', one['batch']]:.2f}",
                 f"{times['compressed', one['batch']]:.2f}",
                 f"{one['ratio']:.2f} [{one['ci95'][0]:.2f}, {one['ci95'][1]:.2f}]", f"{one['ideal']:.2f}",
                 f"{one['realised_over_ideal']:.2f}")
                for one in rival["speedups"] if one["phase"] == "decode"
            ]
    columns = ("engine", "plan", "batch", "dense, ms a token", "compressed", "speed over dense, 95 %", "ideal",
               "realised / ideal")
    card = data["environment"]["gpu"]
    return (f"{data['parameters'] / 1e9:.2f}B random parameters, {data['dtype']}, {card['name']}, driver "
            f"{card['driver']}, context {data['cases'][0]['null_test']['rows'][0]['context_tokens']}, measured "
            f"bandwidth {max(case['bandwidth_bytes_per_s'] for case in data['cases']) / 1e12:.2f} TB/s:\n\n"
            f"{table(columns, rows)}\n\nDense against dense: {'; '.join(nulls)}.")


def _gpu_costs(data: dict[str, Any]) -> str:
    rows = [
        (f"{size['parameters'] / 1e9:.2f}B", "{} x {}".format(*row["shape"]), f"{row['dense_us']:.1f}",
         f"{row['bytes_per_s'] / 1e12:.1f}", *(f"{row['speed_of_pairs'][keep]:.2f}" for keep in ("0.8", "0.6", "0.4")),
         f"{row['pays_to_rank'] / row['saves_to_rank']:.2f}")
        for size in sorted(data["sizes"], key=lambda size: size["parameters"]) for row in size["rows"]
    ]
    columns = ("model", "W, in x out", "dense, us", "TB/s", "speed of a pair that keeps 0.8", "0.6", "0.4",
               "pays up to a keep of")
    where = data["sizes"][0]["table"]["environment"]
    return (f"{where['gpu']['name']}, driver {where['gpu']['driver']}, {data['dtype']}, one token, measured bandwidth "
            f"{max(size['bandwidth_bytes_per_s'] for size in data['sizes']) / 1e12:.2f} TB/s:\n\n"
            f"{table(columns, rows)}")


def _planning_large(data: dict[str, Any]) -> str:
    where = data["gpu"] or f"{data['environment']['cpu_model']}, {data['environment']['threads']} threads"
    card = f", {data['gpu_peak_bytes'] / 2**30:.1f} GiB on the card" if data["gpu_peak_bytes"] else ""
    return (f"A random model of {data['parameters'] / 1e9:.2f}B parameters was planned ({', '.join(data['methods'])}; "
            f"{data['windows']} windows, {data['tokens']:,} tokens) in {data['seconds'] / 60:.1f} minutes on {where}, "
            f"with {data['peak_rss_bytes'] / 2**30:.1f} GiB of memory at most{card}.")


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "demo": _demo, "cpu_speed": _cpu_speed, "huge_pages": _huge_pages, "few_bits": _few_bits, "planning": _planning,
    "llama_cpp": _llama_cpp,
    "width_smollm2": widths, "branches_smollm2": branches, "front_smollm2": front,
    "planning_smollm2": minutes, "rotate": draws, "auto_draws": draws, "speed_smollm2": speeds,
    "apply_cost": _apply_cost, "big_bundle": _big_bundle, "quality": summary,
    "quality_recovered": partial(summary, recovered=True),
    "families": families, "consumers": consumers, "gpu_speed_1b": _gpu_speed, "gpu_speed_100m": _gpu_speed,
    "gpu_few_bits_1b": _gpu_speed, "gpu_few_bits_100m": _gpu_speed, "gpu_costs": _gpu_costs,
    "planning_search": _planning_search, "planning_7b_gpu": _planning_large, "planning_1b": _planning_large,
}
SOURCES = {"consumers": "families", "quality_recovered": "quality", "branches_smollm2": "width_smollm2"}
"""Tables drawn from a file of another name."""


if __name__ == "__main__":
    main()
