"""Peers in the same run: what a user would take otherwise, against our bundle in its first engine, A B B A.

    transformers    the checkpoint in PyTorch, eager, float32
    optimum         the checkpoint as optimum exports it, in its ORTModelForCausalLM, both in the python that
                    FOLDRANK_OPTIMUM_PYTHON names; as many threads as ours, which spin as ours do
    genai-default   the dense bundle in onnxruntime-genai, threads left to the library
    llama.cpp       a GGUF file of the model in llama.cpp (`llama_cpp.py`), as many threads as ours

The first three run the model as it is and are held against our dense bundle. A GGUF file holds it in few bits, as our
compressed bundle mostly does: llama.cpp is held against that.

Each loop is the shortest one of its library (forward with its cache, likeliest token), not its generate(), which costs
more. A peer that is not there is `unavailable (reason)`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

from foldrank.benchmarks.child import Child
from foldrank.benchmarks.document import PHASES, pair_ratio
from foldrank.benchmarks.llama_cpp import library, open_loop
from foldrank.benchmarks.paired import Pairs, Setup, duel, opened, warm
from foldrank.benchmarks.schedule import WHOLE, shares, starting
from foldrank.benchmarks.statistics import estimate, stable
from foldrank.benchmarks.workload import Profile, Workload
from foldrank.bundle.bundle import Bundle
from foldrank.errors import FoldrankError, ProviderUnavailable, SourceError
from foldrank.model.places import place_of
from foldrank.progress import SILENT, Progress
from foldrank.reports.bench import Peer, Peers, Phase
from foldrank.runtime.sessions.session import spinning_entries

PEERS = ("transformers", "optimum", "genai-default", "llama.cpp")

IN_FEW_BITS = frozenset({"llama.cpp"})
"""Peers held against the compressed bundle, not the dense one."""

QUIET = frozenset({"optimum"})
"""Peers whose threads stop spinning when a run of theirs ends, as ours do: those can take turns of a token with us. The
others' would spin on in our turn, so they take turns of a whole sample."""


@dataclass(frozen=True)
class Ours:
    """Our side: both bundles, the engine they run in, and the GGUF file that llama.cpp runs instead."""

    dense: Bundle
    compressed: Bundle
    engine: str
    gguf: Path | None = None


def against(
    peers: Sequence[str], ours: Ours, setup: Setup, profile: Profile, progress: Progress = SILENT
) -> Peers:
    """`entries`, one a peer, workload and phase (`ratio`: its time over ours), and the `unavailable` with reasons."""
    entries: list[Peer] = []
    missing: dict[str, str] = {}
    for peer in peers:
        try:
            entries += _measured(peer, ours, setup, profile, progress)
        except FoldrankError as error:
            missing[peer] = str(error)
    return Peers(engine=ours.engine, entries=entries, unavailable=missing)


def _measured(peer: str, ours: Ours, setup: Setup, profile: Profile, progress: Progress) -> list[Peer]:
    """Both start anew for every launch, as bundles do: a process is as fast as its memory happened to be laid out."""
    if peer not in QUIET:
        setup = replace(setup, turns=WHOLE)
    held: dict[Workload, list[Pairs]] = {workload: [] for workload in profile.workloads}
    counts = shares(profile.pairs, profile.launches)
    rival: Literal["dense", "compressed"] = "compressed" if peer in IN_FEW_BITS else "dense"
    stage = f"bench {peer}"
    bundle = ours.compressed if peer in IN_FEW_BITS else ours.dense
    told: dict[str, Any] = {}
    with ExitStack() as stack:
        folder, command = _place(peer, ours, stack, progress)
        start = {"ours": lambda: Child(f"{rival} in {ours.engine}"),
                 "theirs": lambda: Child(peer, command=command) if command else Child(peer)}
        progress.start(stage, sum(counts) * len(profile.workloads))
        stack.callback(progress.finish, stage)
        for launch, count in enumerate(counts):
            with ExitStack() as started:
                children = {who: started.enter_context(start[who]()) for who in starting(start, launch)}
                mine, theirs = children["ours"], children["theirs"]
                opened(mine, bundle.path, ours.engine, setup)
                told = opened(theirs, folder, peer, setup)
                for workload, launches in held.items():
                    warm((mine, theirs), workload, setup, profile.warmups)
                    launches.append(duel(mine, theirs, workload, setup, count, stage, progress))
    return [replace(_entry(peer, workload, phase, launches, setup.seed), against=rival, what=told.get("what"))
            for workload, launches in held.items() for phase in PHASES]


def _entry(peer: str, workload: Workload, phase: Phase, launches: list[Pairs], seed: int) -> Peer:
    mine_s, theirs_s = ([pair[side][PHASES[phase]] for pairs in launches for pair in pairs] for side in (0, 1))
    ratios = [[pair_ratio(theirs, ours, phase) for ours, theirs in pairs] for pairs in launches]
    found = estimate(ratios, seed)
    return Peer(
        peer=peer, phase=phase, batch=workload.batch, prompt_tokens=workload.prompt, ratio=found.ratio,
        ci95=found.ci95, pair_ratios=ratios, stable=stable([ratio for launch in ratios for ratio in launch]),
        ours_ms=1e3 * median(mine_s), theirs_ms=1e3 * median(theirs_s),
    )


def _place(peer: str, ours: Ours, stack: ExitStack, progress: Progress) -> tuple[Path, tuple[str, ...] | None]:
    """What a peer loads and, where it needs another interpreter, the command that starts its worker."""
    dense = ours.dense
    if peer == "llama.cpp":
        library()
        if ours.gguf is None:
            raise SourceError(peer, "no GGUF file to run", "--gguf FILE")
        return ours.gguf, None
    if peer == "genai-default":
        return dense.path, None
    checkpoint = place_of(dense.manifest.source)
    if checkpoint is None:
        raise SourceError(dense.path, "its checkpoint is not there", "bench where it was exported")
    if peer == "transformers":
        return checkpoint, None
    from foldrank.export.standard import optimum_python

    command = (optimum_python(), "-m", "foldrank.benchmarks.worker")
    return _exported(checkpoint, dense.manifest.dtype, stack, progress), command


def _exported(checkpoint: Path, dtype: str, stack: ExitStack, progress: Progress) -> Path:
    """What optimum makes of a checkpoint, for as long as the stack lasts."""
    from foldrank.verbs.export import export

    folder = Path(stack.enter_context(TemporaryDirectory())) / "optimum"
    return export(checkpoint, folder, exporter="optimum", dtype=dtype, offline=True, progress=progress).path


class TorchLoop:
    """A causal model with transformers' calling convention, PyTorch's or optimum's, in the two calls that are timed."""

    def __init__(self, model: Any) -> None:
        self._model, self._seen = model, 0
        self._cache: Any = None
        self._last: Any = None

    def prepare(self, rows: int) -> None:
        """Nothing."""

    def first(self, prompt_BT: Any) -> Any:
        """Read prompts of equal length, give each row's likeliest next token [B]."""
        import torch

        self._cache, self._seen = None, 0
        return self._step(torch.from_numpy(prompt_BT))

    def next(self) -> Any:
        """Feed back the tokens given last, give the next ones [B]."""
        return self._step(self._last)

    def _step(self, ids_BT: Any) -> Any:
        import torch

        self._seen += ids_BT.shape[1]
        mask = torch.ones((len(ids_BT), self._seen), dtype=torch.int64)
        with torch.inference_mode():
            found = self._model(input_ids=ids_BT, attention_mask=mask, past_key_values=self._cache, use_cache=True)
            self._cache = found.past_key_values
            self._last = found.logits[:, -1:].argmax(-1)
        return self._last[:, 0].numpy()


def open_peer(peer: str, folder: Path, provider: str, threads: int) -> Any:
    """The loop of a peer, in the worker's process; `folder`: the file, of llama.cpp. Raises ProviderUnavailable where
    its library is not installed."""
    if provider != "cpu":
        raise ProviderUnavailable(f"{peer} on {provider}", "peers are measured on the cpu", "--provider cpu")
    if peer == "genai-default":
        from foldrank.runtime.decoding.genai import GenaiDecoder

        return GenaiDecoder.with_defaults(folder)
    if peer == "llama.cpp":
        return open_loop(folder, threads)
    try:
        import torch

        torch.set_num_threads(threads)
        if peer == "transformers":
            from transformers import AutoModelForCausalLM

            return TorchLoop(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True))
        import onnxruntime as ort
        optimum = importlib.import_module("optimum.onnxruntime")
    except ImportError as error:
        raise ProviderUnavailable(peer, f"is not installed for {sys.executable}: {error}", "see --against") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    for key, value in spinning_entries("in_runs").items():
        options.add_session_config_entry(key, value)
    return TorchLoop(optimum.ORTModelForCausalLM.from_pretrained(
        folder, use_cache=True, local_files_only=True, session_options=options))
