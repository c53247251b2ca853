"""The verb `bench`: paired speed, memory and placement of a bundle against its dense baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from foldrank.benchmarks.bench import paired_bench
from foldrank.benchmarks.cost_table import group_shapes, measure_costs, narrower_shapes
from foldrank.benchmarks.llama_cpp import gguf_file
from foldrank.benchmarks.peers import PEERS
from foldrank.benchmarks.workload import ENGINES, FULL, QUICK
from foldrank.bundle.bundle import Bundle
from foldrank.disk.staging import write_atomically
from foldrank.errors import SourceError
from foldrank.plans.solver.costs import CostTable
from foldrank.progress import SILENT, Progress
from foldrank.reports.bench import FORM
from foldrank.reports.limits import SpeedLimits
from foldrank.runtime.providers.fallback import provider_for
from foldrank.runtime.providers.provider import resolve
from foldrank.runtime.sessions.session import default_threads
from foldrank.verbs.safely import refuse_unsafe


def bench(
    bundle: Bundle | Path | str, *, baseline: Bundle | Path | str, provider: str = "cpu",
    provider_options: Mapping[str, str] | None = None,
    allow_fallback: bool = False, min_speedup: float | None = None, seed: int = 0,
    pairs: int | None = None, quick: bool = False, engines: Sequence[str] = ENGINES, threads: int | None = None,
    against: Sequence[str] = (), gguf: Path | str | None = None, budget_s: float | None = None,
    limits: SpeedLimits | None = None, progress: Progress = SILENT,
) -> dict[str, Any]:
    """Measure the bundle against its dense baseline, write reports/bench.json into it, return its content.

    `quick`: batch 1 and short prompts only (`workload.QUICK`); `pairs` at least 20; `threads` default: physical cores.
    `budget_s`: seconds after which no further prompt and engine is begun; the first of both is measured whole.
    `against`: peers measured in the same run (`benchmarks/peers.py`). `gguf`: the file that llama.cpp runs; default:
    the one that the checkpoint was read from. `min_speedup`: gate on decoding at batch 1,
    `limits`: further ones; a miss is in `gates` and `verdict`, not an exception.
    Raises BundleError, ProviderUnavailable, SourceError; ValueError on fewer pairs or an unknown engine.
    """
    if not engines or not set(engines) <= set(ENGINES):
        raise ValueError(f"engines {list(engines)}: one or more of {list(ENGINES)}")
    if not set(against) <= set(PEERS):
        raise ValueError(f"against {list(against)}: one or more of {list(PEERS)}")
    if gguf is not None and "llama.cpp" not in against:
        raise ValueError("a GGUF file is for --against llama.cpp")
    profile = QUICK if quick else FULL
    profile = replace(profile, engines=tuple(engines), pairs=profile.pairs if pairs is None else pairs)
    on = provider_for(provider, provider_options, allow_fallback=allow_fallback)
    compressed, dense = _open(bundle), _open(baseline)
    refuse_unsafe(compressed, dense)
    file = None
    if "llama.cpp" in against:
        given = None if gguf is None else Path(gguf).expanduser()
        file = gguf_file(given, dense.manifest.source, dense.json("config.json"))
    result = paired_bench(
        compressed, dense, on, profile, threads=threads or default_threads(), seed=seed, min_speedup=min_speedup,
        peers=against, gguf=file, budget_s=budget_s, progress=progress,
    )
    if limits is not None:
        gates = [*result.gates, *limits.gates(result)]
        result = replace(result, gates=gates, verdict="pass" if all(gate.passed for gate in gates) else "fail")
    compressed.with_files({FORM.file: FORM.data(result)})
    return FORM.document(result)


def cost_table(
    bundle: Bundle | Path | str, output: Path | str, *, provider: str = "cpu",
    provider_options: Mapping[str, str] | None = None, threads: int | None = None, tokens: int = 1, seed: int = 0,
    progress: Progress = SILENT,
) -> CostTable:
    """Time MatMuls of a dense bundle's shapes and dtype, whole, narrower and as pairs; write the table as JSON.

    `tokens`: how many are computed at once (rows of a batch, or a prompt's); decoding at batch 1 is 1.

    Raises BundleError, ProviderUnavailable; SourceError where the file cannot be written.
    """
    from foldrank.verbs.inspect import inspect

    dense = _open(bundle)
    sites = inspect(dense.path)["sites"]
    on = resolve(provider, provider_options)
    made = measure_costs(group_shapes(sites), on, threads=threads or default_threads(), dtype=dense.manifest.dtype,
                         tokens=tokens, seed=seed, progress=progress, narrower=narrower_shapes(sites))
    try:
        write_atomically(Path(output).expanduser(), made.text().encode())
    except OSError as error:
        raise SourceError(output, f"cannot be written: {error.strerror}", "choose another file") from None
    return made


def _open(bundle: Bundle | Path | str) -> Bundle:
    return bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
