"""One bundle in one engine in a process of its own: `python -m foldrank.benchmarks.worker`.

Reads one JSON command a line on stdin, answers one JSON line on stdout; ends when stdin does. Its peak memory
(VmHWM) is thus that of one session. Times are seconds of a monotonic clock around the calls alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from foldrank.benchmarks.energy import energy_counter
from foldrank.benchmarks.llama_cpp import LlamaLoop
from foldrank.benchmarks.peers import PEERS, open_peer
from foldrank.benchmarks.workload import Workload
from foldrank.errors import FoldrankError, ProviderUnavailable
from foldrank.runtime.decoding.decoder import Decoder, shares_buffer
from foldrank.runtime.decoding.genai import GenaiDecoder
from foldrank.runtime.decoding.profiling import profiled
from foldrank.runtime.decoding.resident import ResidentDecoder, open_decoder
from foldrank.runtime.providers.gpu import Gpu
from foldrank.runtime.providers.provider import Provider, resolve


class Worker:
    """What the commands act on."""

    def __init__(self) -> None:
        self._decoder: Any = None
        self._provider: Provider | None = None
        self._shared = False

    def open(self, *, folder: str, engine: str, provider: str, options: dict[str, str], threads: int) -> dict[str, Any]:
        """Open the bundle. Gives node placement and whether a CUDA graph is replayed (null where the engine does not
        tell), resident bytes before, how many bytes lie in huge pages after, and of llama.cpp what it runs."""
        before, path, chosen, old = memory("VmRSS"), Path(folder), resolve(provider, options), threads_now()
        placement = graph = None
        self._provider = chosen
        if engine in PEERS:
            self._decoder = open_peer(engine, path, provider, threads)
        elif engine == "genai":
            self._decoder = GenaiDecoder.open(path, chosen, capacity=1, threads=threads, spinning="in_runs")
        else:
            decoder = open_decoder(path, chosen, threads=threads, spinning="in_runs")
            self._decoder, self._shared, placement = decoder, shares_buffer(path), decoder.session.placement
            graph = isinstance(decoder, ResidentDecoder) and decoder.graph
        pinned = pin(threads_now() - old, threads)
        return {"placement": placement, "cuda_graph": graph, "rss_before_bytes": before, "pinned": pinned,
                "huge_page_bytes": memory("AnonHugePages", Path("/proc/self/smaps_rollup")),
                "what": self._decoder.what if isinstance(self._decoder, LlamaLoop) else None}

    def sample(self, *, prompt: int, batch: int, tokens: int, vocabulary: int, seed: int) -> dict[str, Any]:
        """Read one prompt, make `tokens` tokens. Gives seconds to the first and per later token."""
        workload = Workload(prompt, batch, tokens)
        return measure(self._decoder_for(workload), workload, vocabulary, seed)

    def begin(self, *, prompt: int, batch: int, tokens: int, vocabulary: int, seed: int) -> dict[str, Any]:
        """Read one prompt and make its first token; `steps` go on from there. Gives seconds."""
        workload = Workload(prompt, batch, tokens)
        return begin(self._decoder_for(workload), workload, vocabulary, seed)

    def steps(self, *, count: int) -> dict[str, Any]:
        """Make so many more tokens. Gives the seconds of each."""
        clock = [time.perf_counter()]
        for _ in range(count):
            self._decoder.next()
            clock.append(time.perf_counter())
        return {"steps_s": [end - start for start, end in pairwise(clock)]}

    def energy(
        self, *, prompt: int, batch: int, tokens: int, vocabulary: int, seed: int, seconds: float
    ) -> dict[str, Any]:
        """Decode for so long. Gives joules per token, prompts' reading with it; null where no counter can be read."""
        workload = Workload(prompt, batch, tokens)
        decoder = self._decoder_for(workload)
        assert self._provider is not None
        counter, how = energy_counter(self._provider)
        before, end, made = counter(), time.perf_counter() + seconds, 0
        while before is not None and time.perf_counter() < end:
            measure(decoder, workload, vocabulary, seed)
            made += workload.batch * workload.tokens
        after = counter()
        joules = None if before is None or after is None or after <= before else (after - before) / made
        return {"joules_per_token": joules, "energy_source": how}

    def profile(self, *, folder: str, provider: str, options: dict[str, str], threads: int) -> dict[str, Any]:
        """Where the bundle's nodes run and what they take (`runtime.profiling`)."""
        return profiled(Path(folder), resolve(provider, options), threads=threads)

    def memory(self) -> dict[str, Any]:
        """Peak resident bytes of this process so far, and what it holds on its GPU; null where nothing tells."""
        card = None if self._provider is None else Gpu.of(self._provider)
        return {"peak_rss_bytes": memory("VmHWM"), "gpu_bytes": card and card.process_bytes()}

    def _decoder_for(self, workload: Workload) -> Decoder:
        if self._decoder is None:
            raise ValueError("sample before open")
        if self._shared or isinstance(self._decoder, GenaiDecoder | LlamaLoop):
            self._decoder.capacity = workload.capacity
        return self._decoder


def measure(decoder: Decoder, workload: Workload, vocabulary: int, seed: int) -> dict[str, Any]:
    """Time one prompt and its continuation, and apart from it what the engine prepares for a request."""
    begun = begin(decoder, workload, vocabulary, seed)
    first = time.perf_counter()
    for _ in range(workload.tokens - 1):
        decoder.next()
    return {**begun, "tpot_s": (time.perf_counter() - first) / (workload.tokens - 1)}


def begin(decoder: Decoder, workload: Workload, vocabulary: int, seed: int) -> dict[str, Any]:
    """Time what the engine prepares for a request, and the prompt up to its first token."""
    prompt = workload.prompts(vocabulary, seed)
    asked = time.perf_counter()
    decoder.prepare(workload.batch)
    start = time.perf_counter()
    decoder.first(prompt)
    return {"prepare_s": start - asked, "ttft_s": time.perf_counter() - start}


def threads_now() -> set[int]:
    """Ids of this process's threads; empty off Linux."""
    tasks = Path("/proc/self/task")
    return {int(path.name) for path in tasks.iterdir()} if tasks.is_dir() else set()


def pin(pool: set[int], threads: int) -> bool:
    """Give the main thread and each thread of the session's pool a core of its own, the same ones in every worker.

    Left alone, the scheduler may keep two threads of one worker on one core for as long as it lives, and that worker
    is slower by half in every pair. Not done where there are too few cores, or more threads than the pool should have.
    """
    if not hasattr(os, "sched_setaffinity") or (not pool and threads > 1):
        return False
    cores = whole_cores_first(os.sched_getaffinity(0))
    if len(pool) + 1 > min(threads, len(cores)):
        return False
    for thread, core in zip([os.getpid(), *sorted(pool)], cores, strict=False):
        os.sched_setaffinity(thread, {core})
    return True


def whole_cores_first(allowed: set[int], topology: Path = Path("/sys/devices/system/cpu")) -> list[int]:
    """Processors in the order to use them: one of each physical core, then their hyper-threads."""
    seen: set[str] = set()
    first: list[int] = []
    rest: list[int] = []
    for cpu in sorted(allowed):
        path = topology / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        siblings = path.read_text() if path.is_file() else str(cpu)
        (rest if siblings in seen else first).append(cpu)
        seen.add(siblings)
    return first + rest


def memory(field: str, status: Path = Path("/proc/self/status")) -> int | None:
    """Bytes of a field that Linux tells of this process, such as VmHWM (peak) or VmRSS (now); None elsewhere."""
    if not status.is_file():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(lines[field].split()[0]) * 1024


def serve(commands: TextIO, answers: TextIO, worker: Worker | None = None) -> None:
    """Answer commands until there are no more. An error of ours is an answer, anything else ends the process."""
    worker = worker or Worker()
    acts: dict[str, Callable[..., dict[str, Any]]] = {
        "open": worker.open, "sample": worker.sample, "begin": worker.begin, "steps": worker.steps,
        "memory": worker.memory, "energy": worker.energy, "profile": worker.profile,
    }
    for line in commands:
        command = json.loads(line)
        try:
            answer = acts[command.pop("do")](**command)
        except FoldrankError as error:
            answer = {
                "error": {"where": error.where, "what": error.what, "remedy": error.remedy},
                "unavailable": isinstance(error, ProviderUnavailable),
            }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Serve on the standard streams; whatever a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    np.seterr(all="ignore")
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
