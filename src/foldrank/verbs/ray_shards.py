"""Parts of the calibration windows on the nodes of a Ray cluster: each passes its own through the blocks.

A worker holds the model and the hidden states of its windows; what comes back is its sums over a block's inputs, which
are added here in the order of the parts, so that they are those of `Shards` in one process with as many threads. A
worker that died begins again at the first block: the same numbers, later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from foldrank.errors import SourceError
from foldrank.plans.low_rank.grams import GRAMS, Sum
from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shards import Shards, Sums, summed, through
from foldrank.plans.shelf import States
from foldrank.verbs.ray_cluster import REMEDY, TRIES, differing, joined
from foldrank.versions import versions


class Worker:
    """Runs one part of the windows through a model."""

    def __init__(self, decoder: Decoder, ids_NT: np.ndarray, threads: int, wanted: Mapping[str, str]) -> None:
        torch.set_num_threads(threads)
        self._decoder, self._refused = decoder, differing(wanted)
        self._ids = np.array(ids_NT)  # Ray's own may not be written to
        self._hidden, self._next = torch.empty(0), 0

    def refused(self) -> str | None:
        """Why this node cannot do the work."""
        return self._refused

    def through(self, position: int, wanted: Collection[Sum], output: bool) -> Sums:
        """The sums of a block; those below it are run first where they were not."""
        if self._next > position or not self._next:
            self._hidden, self._next = self._decoder.embed(self._ids), 0
        with torch.no_grad():
            for block in self._decoder.blocks[self._next : position]:
                self._hidden = self._decoder.run(block, self._hidden)
        block = self._decoder.blocks[position]
        found, self._hidden = through(self._decoder, block, self._hidden, wanted, output=output)
        self._next = position + 1
        return found


@dataclass(frozen=True)
class RayShards(Shards):
    """`count` workers of `threads` threads for the model that is at hand; `ray`: the module, connected."""

    ray: Any = None
    threads: int = 1
    _held: list[tuple[Decoder, list[Any], list[Any]]] = field(default_factory=list)
    """The model, its workers, and what they were given: Ray drops what nobody holds, and a worker that begins again
    asks for it."""

    def start(self, decoder: Decoder, ids_NT: np.ndarray) -> States:
        """Nothing: what goes through the blocks stays with the workers."""
        self._workers(decoder, ids_NT)
        return {}

    def through(
        self, decoder: Decoder, ids_NT: np.ndarray, block: Block, states: States, wanted: Collection[Sum] = GRAMS, *,
        output: bool = False,
    ) -> tuple[Sums, States]:
        """As of the class above. Raises SourceError where a worker failed for good."""
        position = [other.number for other in decoder.blocks].index(block.number)
        asked = [worker.through.remote(position, frozenset(wanted), output)
                 for worker in self._workers(decoder, ids_NT)]
        try:
            return summed(map(self.ray.get, asked)), {}
        except self.ray.exceptions.RayError as error:
            what = f"the Ray cluster gave up on block {block.number}: {' '.join(str(error).split())[:400]}"
            raise SourceError("--ray", what, "look at its logs (`ray logs`), or plan without --ray") from None

    def _workers(self, decoder: Decoder, ids_NT: np.ndarray) -> list[Any]:
        """Of this model; those of another one leave."""
        if self._held and self._held[0][0] is decoder:
            return self._held[0][1]
        for worker in self._held.pop()[1] if self._held else ():
            self.ray.kill(worker)
        new = self.ray.remote(num_cpus=self.threads, max_restarts=TRIES, max_task_retries=TRIES)(Worker)
        given = [self.ray.put(thing) for thing in (decoder, *(p.numpy() for p in self.parts(torch.from_numpy(ids_NT))))]
        workers = [new.remote(given[0], part, self.threads, versions()) for part in given[1:]]
        for reason in self.ray.get([worker.refused.remote() for worker in workers]):
            if reason is not None:
                raise SourceError("--ray", reason, REMEDY)
        self._held.append((decoder, workers, given))
        return workers


@contextmanager
def on_cluster(address: str, count: int) -> Iterator[Shards]:
    """So many parts on the cluster there. Raises SourceError where none answers, or a node has other versions."""
    threads = torch.get_num_threads()
    with joined(address, threads) as ray:
        yield RayShards(count, ray, threads)
