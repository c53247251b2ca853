"""A model's 4-bit bundle against llama.cpp on the GGUF file it was made of, in one run:

    FOLDRANK_LLAMA_CPP_PYTHON=llama/bin/python python -m foldrank.benchmarks.llama_speed MODEL.gguf \
        -o benchmarks/results/llama_cpp.json

The bundle is rounded to nearest: how weights are rounded changes neither its bytes nor its speed. Run it on a quiet
machine.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from foldrank import strictjson
from foldrank.benchmarks.bench import paired_bench
from foldrank.benchmarks.llama_cpp import gguf_file, library
from foldrank.benchmarks.workload import Profile, Workload
from foldrank.bundle.bundle import Bundle
from foldrank.disk.staging import write_atomically
from foldrank.progress import SILENT, Progress
from foldrank.reports.form import plain
from foldrank.runtime.providers.provider import resolve
from foldrank.runtime.sessions.session import default_threads

METHOD = "quantize:bits=4,rounding=nearest"
TOKENS = 64
"""Made after each prompt: a turn of llama.cpp is a whole sample, so short ones would be all change-over."""


def measure(gguf: Path, folder: Path, *, threads: int, prompts: tuple[int, ...] = (16, 128), tokens: int = TOKENS,
            progress: Progress = SILENT) -> dict[str, Any]:
    """Export, plan, apply, time. Raises what those do, ProviderUnavailable where xllamacpp is not there."""
    from foldrank.verbs.apply import apply
    from foldrank.verbs.export import export
    from foldrank.verbs.plan import plan

    library()
    dense = export(gguf, folder / "dense", offline=True, progress=progress)
    small = apply(dense, plan(gguf, methods=[METHOD], calibration_tokens=1024, progress=progress), folder / "small")
    profile = Profile("llama_cpp", tuple(Workload(prompt, 1, tokens) for prompt in prompts), engines=("genai",))
    file = gguf_file(gguf, dense.manifest.source, dense.json("config.json"))
    bench = paired_bench(small, dense, resolve("cpu"), profile, threads=threads, seed=0, peers=("llama.cpp",),
                         gguf=file, progress=progress)
    return {
        "model": gguf.name, "method": METHOD, "tokens": tokens,
        "model_bytes": {"dense": _bytes(dense), "compressed": _bytes(small), "gguf": file.stat().st_size},
        "peers": plain(bench.peers) if bench.peers else None,
        "speedups": [plain(entry) for entry in bench.speedups],
        "null_test": {key: getattr(bench.null_test, key) for key in ("ratio", "ci95", "passed")},
        "environment": plain(bench.environment),
    }


def _bytes(bundle: Bundle) -> int:
    return sum((bundle.path / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))


@click.command()
@click.argument("gguf", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--threads", type=int, default=default_threads(), show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(gguf: Path, threads: int, output: Path) -> None:
    """Time a 4-bit bundle of the file against llama.cpp and write what came out."""
    from foldrank.cli.progress import shown

    with tempfile.TemporaryDirectory() as folder, shown(False) as progress:
        found = measure(gguf, Path(folder), threads=threads, progress=progress)
    write_atomically(output.absolute(), strictjson.dumps(found).encode())


if __name__ == "__main__":
    main()
