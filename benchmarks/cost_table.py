"""Time dense and paired MatMuls of a model's shapes through ONNX Runtime: the table that a time budget is kept by.

One token at a time, as decoding does, or more (rows of a batch, a prompt). Every product is a graph of its own with its
weights inside; all of them run in turn, round after round, so that a disturbance meets all alike, and the median of the
rounds counts. A small product on a CPU with a large cache never reads memory: the times are those of this machine and
these shapes, no more. On a GPU the table is written and tested without one: not verified on hardware.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from foldrank.benchmarks.environment import environment
from foldrank.edits import rank_limit
from foldrank.plans.solver.costs import CostTable, Shape, Timing
from foldrank.plans.solver.layout import GROUPS
from foldrank.progress import SILENT, Progress, track
from foldrank.runtime.providers import Provider, load_onnxruntime
from foldrank.runtime.session import Session, open_session
from foldrank.sites import Site

SHARES = (0.02, 0.05, 0.1, 0.25, 0.45, 0.7, 0.9, 1.0)
"""Ranks measured, as shares of the largest that stores fewer numbers than W."""

_DTYPES: dict[str, type[np.floating[Any]]] = {"fp32": np.float32, "fp16": np.float16}

ROUNDS, RUNS = 15, 20
"""Rounds over all products; runs of each in a round, timed together."""


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


def measure_costs(
    shapes: Iterable[Shape], provider: Provider, *, threads: int, dtype: str = "fp32", tokens: int = 1, seed: int = 0,
    rounds: int = ROUNDS, progress: Progress = SILENT,
) -> CostTable:
    """Time every shape for so many tokens at once (rows times positions), numbers as `dtype`, all on the device.

    Raises ProviderUnavailable where the provider does not start, ValueError for a dtype numpy lacks.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"cost table: no products of {dtype} are timed; one of {', '.join(_DTYPES)}")
    wanted = {(shape, rank) for shape in shapes for rank in (None, *_ranks(shape))}
    ordered = sorted(wanted, key=lambda entry: (entry[0], entry[1] or 0))
    rng = np.random.default_rng(seed)
    with TemporaryDirectory() as folder:
        sessions = {}
        for index, (shape, rank) in enumerate(ordered):
            path = Path(folder) / f"{index}.onnx"
            onnx.save(product(shape, rank, rng, dtype), str(path))
            session = open_session(path, provider, threads=threads, spinning="in_runs")
            x = rng.standard_normal((1, tokens, shape[0]), dtype=np.float32).astype(_DTYPES[dtype])
            sessions[shape, rank] = (session.handle, _bound(session, x, shape[1]))
        samples: dict[Any, list[float]] = {entry: [] for entry in ordered}
        for _ in track(range(rounds + 1), "cost table", rounds + 1, progress):
            for entry, (handle, binding) in sessions.items():
                samples[entry].append(_milliseconds(handle, binding))
    medians = {entry: float(np.median(times[1:])) for entry, times in samples.items()}  # the first round warms up
    return CostTable(
        tuple(
            Timing(shape, medians[shape, None], {rank: medians[shape, rank] for rank in _ranks(shape)})
            for shape in sorted({shape for shape, _ in ordered})
        ),
        {**environment(threads), "provider": provider.name, "dtype": dtype, "tokens": tokens, "rounds": rounds,
         "runs": RUNS, "seed": seed},
    )


def product(shape: Shape, rank: int | None, rng: np.random.Generator, dtype: str = "fp32") -> onnx.ModelProto:
    """A graph that computes x @ W, or (x @ A) @ B, with random weights inside."""
    n_in, n_out = shape
    sizes = [(n_in, n_out)] if rank is None else [(n_in, rank), (rank, n_out)]
    names = ["x", *(f"y{i}" for i in range(len(sizes)))]
    weights = [
        numpy_helper.from_array(rng.standard_normal(size, dtype=np.float32).astype(_DTYPES[dtype]), f"w{i}")
        for i, size in enumerate(sizes)
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(_DTYPES[dtype]))
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], name=f"m{i}") for i in range(len(sizes))]
    graph = helper.make_graph(
        nodes, "product", [helper.make_tensor_value_info("x", kind, [1, "tokens", n_in])],
        [helper.make_tensor_value_info(names[-1], kind, [1, "tokens", n_out])], weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _ranks(shape: Shape) -> tuple[int, ...]:
    limit = rank_limit(*shape)
    return tuple(sorted({max(1, round(share * limit)) for share in SHARES})) if limit else (1,)


def _bound(session: Session, x: np.ndarray, n_out: int) -> Any:
    """Input and output where the provider computes, made once: no copy is timed."""
    ort, on, binding = load_onnxruntime(), session.provider, session.handle.io_binding()
    y = ort.OrtValue.ortvalue_from_shape_and_type((*x.shape[:-1], n_out), x.dtype, on.device, on.device_id)
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x, on.device, on.device_id))
    binding.bind_ortvalue_output(next(iter(session.outputs)), y)
    return binding


def _milliseconds(handle: Any, binding: Any) -> float:
    """Of one run, over RUNS in a row."""
    begin = time.perf_counter()
    for _ in range(RUNS):
        handle.run_with_iobinding(binding)
    return (time.perf_counter() - begin) * 1e3 / RUNS
