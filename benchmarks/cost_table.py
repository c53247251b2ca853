"""Time a model's products through ONNX Runtime, dense, narrower, paired, in few bits: what a time budget is kept by.

One token at a time, as decoding does, or more (rows of a batch, a prompt). Every product is a graph of its own with its
weights inside; all of them run in turn, round after round, so that a disturbance meets all alike, and the median of the
rounds counts. A small product on a CPU with a large cache never reads memory: the times are those of this machine and
these shapes, no more.

A GPU's cache would hold a product that is repeated, and handing over a run takes longer than a product does. There a
graph has copies of the product with weights of their own, more than a cache holds, and runs as a CUDA graph, so that a
copy's share of the time is what the product takes inside a model.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np

from foldrank.benchmarks.environment import environment
from foldrank.benchmarks.products import DTYPES, copies_of, write_product
from foldrank.edits.base import BRANCHES
from foldrank.edits.low_rank import rank_limit
from foldrank.edits.storage import HAVE_FEW_BITS, FewBits
from foldrank.plans.solver.costs import CostTable, Fewer, Narrower, Shape, Timing
from foldrank.plans.solver.layout import GROUPS
from foldrank.progress import SILENT, Progress
from foldrank.runtime.decoding.resident import GRAPH_OPTION
from foldrank.runtime.providers.gpu import Gpu
from foldrank.runtime.providers.provider import Provider, load_onnxruntime
from foldrank.runtime.sessions.session import Session, open_session
from foldrank.sites import Site

SHARES = (0.02, 0.05, 0.1, 0.25, 0.45, 0.7, 0.9, 1.0)
"""Ranks measured, as shares of the largest that stores fewer numbers than W."""

WIDTHS, WIDTH_MULTIPLE = (0.25, 0.5, 0.75), 64
"""Widths of MLPs measured, as shares of their channels, in multiples of what suits every provider."""

STORAGES = (FewBits(4, 32, True, 4), FewBits(8, 32, True, 4))
"""Ways of storing in few bits that are measured: the defaults of `quantize`."""

Way: TypeAlias = int | FewBits | None
"""How a product is computed: as a pair of some rank, in few bits, or as it is."""

ROUNDS, RUNS = 15, 20
"""Rounds over all products; runs of each in a round, timed together."""

ON_GPU_MULTIPLE = 8
"""On a GPU ranks are rounded to this: rows of 16 bytes in fp16, without which cuBLAS takes slower kernels."""


def group_shapes(sites: Iterable[Mapping[str, Any]]) -> set[Shape]:
    """[in, out] of every site as `inspect` lists them, and of those that read one input together."""
    found: dict[tuple[int, tuple[str, ...]], tuple[int, int]] = {}
    alone: set[Shape] = set()
    for entry in sites:
        site = Site.parse(entry["site"])
        group = next(roles for roles in GROUPS if set(site.roles) <= set(roles))
        n_in, n_out = entry["shape"]
        found[site.block, group] = (n_in, n_out + found.get((site.block, group), (n_in, 0))[1])
        alone.add((n_in, n_out))
    return {*found.values(), *alone}


def narrower_shapes(sites: Iterable[Mapping[str, Any]]) -> set[Shape]:
    """[in, out] of an MLP's products, alone and together, with some of its channels."""
    mlp = [entry for entry in sites if set(Site.parse(entry["site"]).roles) <= set(BRANCHES["mlp"])]
    down = {tuple(entry["shape"]) for entry in mlp if entry["site"].endswith(".down")}
    found: set[Shape] = set()
    for channels, out in down:
        up = [n_out for n_in, n_out in group_shapes(mlp) - {(channels, out)} if n_in == out]
        for share in WIDTHS:
            width = max(1, round(share * channels / WIDTH_MULTIPLE)) * WIDTH_MULTIPLE
            if width < channels:
                found |= {(width, out), *((out, n_out * width // channels) for n_out in up)}
    return found


def measure_costs(
    shapes: Iterable[Shape], provider: Provider, *, threads: int, dtype: str = "fp32", tokens: int = 1, seed: int = 0,
    rounds: int = ROUNDS, progress: Progress = SILENT, narrower: Iterable[Shape] = (),
    storages: Iterable[FewBits] = STORAGES,
) -> CostTable:
    """Time every shape for so many tokens at once (rows times positions), numbers as `dtype`, all on the device; those
    of narrower MLPs without pairs, and the whole products in few bits too.

    Raises ProviderUnavailable where the provider does not start, ValueError for a dtype numpy lacks.
    """
    if dtype not in DTYPES:
        raise ValueError(f"cost table: no products of {dtype} are timed; one of {', '.join(DTYPES)}")
    if provider.short == "cuda":
        provider = replace(provider, options={GRAPH_OPTION: "1", **provider.options})
    storages = tuple(storages) if provider.short in HAVE_FEW_BITS else ()
    ways: dict[Shape, tuple[Way, ...]] = {
        shape: (None, *ranks_of(shape, provider), *storages) for shape in sorted(set(shapes))}
    ways = dict.fromkeys(sorted(set(narrower) - set(ways)), (None,)) | ways
    wanted = sorted(ways)
    # A card holds one shape's copies.
    turns = [wanted] if provider.processor == "cpu" else [[shape] for shape in wanted]
    rng = np.random.default_rng(seed)
    medians: dict[tuple[Shape, Way], float] = {}
    progress.start("cost table", len(turns) * (rounds + 1))
    for turn in turns:
        medians |= _medians({shape: ways[shape] for shape in turn}, provider, rng, threads, dtype, tokens, rounds,
                            progress)
    progress.finish("cost table")
    card = Gpu.of(provider)
    return CostTable(
        tuple(
            Timing(shape, medians[shape, None], {way: medians[shape, way] for way in ways[shape]
                                                 if isinstance(way, int)})
            for shape in wanted if len(ways[shape]) > 1
        ),
        {**environment(threads), "provider": provider.name, "dtype": dtype, "tokens": tokens, "rounds": rounds,
         "runs": RUNS, "seed": seed, "options": dict(provider.options), "gpu": card and card.facts()},
        tuple(Narrower(shape, medians[shape, None]) for shape in wanted if len(ways[shape]) == 1),
        tuple(Fewer(shape, found) for shape in wanted
              if (found := {int(way.bits): medians[shape, way] for way in ways[shape] if isinstance(way, FewBits)})),
    )


def _medians(
    ways: Mapping[Shape, Iterable[Way]], provider: Provider, rng: np.random.Generator, threads: int,
    dtype: str, tokens: int, rounds: int, progress: Progress,
) -> dict[tuple[Shape, Way], float]:
    """Milliseconds of each shape's product in each way, all open at once and taking turns."""
    with TemporaryDirectory() as name:
        folder, runs = Path(name), {}
        for shape, wanted in ways.items():
            copies = copies_of(shape, dtype, provider)
            for way in wanted:
                rank, storage = (None, way) if isinstance(way, FewBits) else (way, None)
                path = write_product(folder, shape, rank, rng, dtype, copies, storage)
                session = open_session(path, provider, threads=threads, spinning="in_runs")
                x = rng.standard_normal((1, tokens, shape[0]), dtype=np.float32).astype(DTYPES[dtype])
                runs[shape, way] = (session.handle, _bound(session, x, shape[1]), copies)
        samples: dict[Any, list[float]] = {entry: [] for entry in runs}
        for _ in range(rounds + 1):
            for entry, (handle, binding, copies) in runs.items():
                samples[entry].append(_milliseconds(handle, binding) / copies)
            progress.advance("cost table")
    return {entry: float(np.median(times[1:])) for entry, times in samples.items()}  # the first round warms up


def ranks_of(shape: Shape, provider: Provider) -> tuple[int, ...]:
    """Ranks that are measured, rounded to what suits the provider, within those that store fewer numbers than W."""
    limit = rank_limit(*shape)
    if not limit:
        return (1,)
    unit = 1 if provider.processor == "cpu" else min(ON_GPU_MULTIPLE, limit)
    return tuple(sorted({max(1, min(limit // unit, round(share * limit / unit))) * unit for share in SHARES}))


def _bound(session: Session, x: np.ndarray, n_out: int) -> Any:
    """Input and outputs where the provider computes, made once: no copy is timed."""
    ort, on, binding = load_onnxruntime(), session.provider, session.handle.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x, on.device, on.device_id))
    for name in session.outputs:
        y = ort.OrtValue.ortvalue_from_shape_and_type((*x.shape[:-1], n_out), x.dtype, on.device, on.device_id)
        binding.bind_ortvalue_output(name, y)
    return binding


def _milliseconds(handle: Any, binding: Any) -> float:
    """Of one run, over RUNS in a row."""
    begin = time.perf_counter()
    for _ in range(RUNS):
        handle.run_with_iobinding(binding)
    return (time.perf_counter() - begin) * 1e3 / RUNS
