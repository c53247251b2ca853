"""A compressed bundle against llama.cpp on a GGUF file of the model, in one run on a quiet machine:

    foldrank export MODEL.gguf -o dense
    foldrank plan MODEL.gguf --method quantize:bits=4,rounding=nearest -o plan && foldrank apply dense plan -o small
    python -m foldrank.benchmarks.llama_speed small --baseline dense -o benchmarks/results/llama_cpp.json

To nearest, since rounding changes neither bytes nor speed. More tokens follow each prompt than in `foldrank bench`: a
turn of llama.cpp is a whole sample, and a short one would be mostly the change from one to the other. Beside that the
CPU time of one thread of each, which others on the machine change little.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from foldrank import strictjson
from foldrank.benchmarks.document import PHASES
from foldrank.benchmarks.environment import environment
from foldrank.benchmarks.llama_cpp import LlamaLoop, gguf_file, library, open_loop
from foldrank.benchmarks.paired import Setup
from foldrank.benchmarks.peers import Ours, against
from foldrank.benchmarks.workload import ENGINES, Profile, Workload
from foldrank.bundle.bundle import Bundle
from foldrank.disk.staging import write_atomically
from foldrank.planfile.plan import Plan
from foldrank.reports.bench import Phase
from foldrank.reports.form import plain
from foldrank.runtime.decoding.genai import GenaiDecoder
from foldrank.runtime.providers.provider import resolve
from foldrank.runtime.sessions.session import default_threads

PROMPTS, TOKENS = (16, 128), 48
REPEATS, FEWER = 2, 12
"""Of the CPU times: how often, and tokens after a prompt."""


def measure(
    small: Bundle, dense: Bundle, gguf: Path | None, *, threads: int, prompts: tuple[int, ...] = PROMPTS,
    tokens: int = TOKENS,
) -> dict[str, Any]:
    """Sizes, and times at batch 1. Raises SourceError (no such file), ProviderUnavailable (no xllamacpp)."""
    library()
    file = gguf_file(gguf, dense.manifest.source, dense.json("config.json"))
    profile = Profile("llama_cpp", tuple(Workload(prompt, 1, tokens) for prompt in prompts))
    setup = Setup(resolve("cpu"), threads, int(dense.json("config.json")["vocab_size"]), seed=0)
    peers = against(("llama.cpp",), Ours(dense, small, ENGINES[0], file), setup, profile)
    steps = Plan.read(small.path / "plan").document.steps
    return {
        "model": file.name, "steps": [{"method": step.method, "settings": dict(step.settings)} for step in steps],
        "tokens": tokens, "pairs": profile.pairs, "launches": profile.launches,
        "model_bytes": {"dense": _bytes(dense), "compressed": _bytes(small), "gguf": file.stat().st_size},
        "peers": plain(peers), "cpu_time": cpu_times(small, dense, file, prompts=prompts),
        "environment": environment(threads),
    }


def cpu_times(
    small: Bundle, dense: Bundle, file: Path, *, prompts: tuple[int, ...] = PROMPTS, tokens: int = FEWER
) -> list[dict[str, Any]]:
    """Milliseconds of CPU that one thread takes, the lesser of two: `ours` and `theirs`, to the first token (prefill)
    and per token after it (decode)."""
    ours = GenaiDecoder.open(small.path, resolve("cpu"), capacity=1, threads=1)
    loops: dict[str, GenaiDecoder | LlamaLoop] = {"ours": ours, "theirs": open_loop(file, 1)}
    vocabulary = int(dense.json("config.json")["vocab_size"])
    found: list[dict[str, Any]] = []
    for workload in (Workload(prompt, 1, tokens) for prompt in prompts):
        for loop in loops.values():
            loop.capacity = workload.capacity
        taken = [{name: _cpu_ms(loop, workload, vocabulary) for name, loop in loops.items()} for _ in range(REPEATS)]
        found += [{"phase": phase, "prompt_tokens": workload.prompt,
                   **{name: min(one[name][phase] for one in taken) for name in loops}} for phase in PHASES]
    return found


def _cpu_ms(loop: GenaiDecoder | LlamaLoop, workload: Workload, vocabulary: int) -> dict[Phase, float]:
    prompt = workload.prompts(vocabulary, 0)
    loop.prepare(1)
    start = time.process_time()
    loop.first(prompt)
    read = time.process_time()
    for _ in range(workload.tokens - 1):
        loop.next()
    made = time.process_time()
    return {"prefill": 1e3 * (read - start), "decode": 1e3 * (made - read) / (workload.tokens - 1)}


def _bytes(bundle: Bundle) -> int:
    return sum((bundle.path / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--baseline", type=click.Path(path_type=Path), required=True, help="Its dense bundle.")
@click.option("--gguf", type=click.Path(path_type=Path), help="Default: the file that the checkpoint was read from.")
@click.option("--threads", type=int, default=default_threads(), show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(bundle: Path, baseline: Path, gguf: Path | None, threads: int, output: Path) -> None:
    """Time a compressed bundle against llama.cpp and write what came out."""
    found = measure(Bundle.open(bundle), Bundle.open(baseline), gguf, threads=threads)
    write_atomically(output.absolute(), strictjson.dumps(found).encode())


if __name__ == "__main__":
    main()
