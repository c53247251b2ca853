"""One request's texts while they are written: put to the writers, cut at stops, counted, ended when nobody listens.

Knows asyncio and writers. Knows nothing of HTTP's forms.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from foldrank.runtime.decoding.sampling import Sampling
from foldrank.verbs.serving.asked import Asked, Refused
from foldrank.verbs.serving.metrics import Metrics
from foldrank.verbs.serving.stops import Held
from foldrank.verbs.serving.writers import Job, Piece, Writers


class Model(Protocol):
    """What is asked of the model: `runtime.decoding.writing.Writer` is one."""

    context: int
    ends: frozenset[int]

    def begin(self, ids: Sequence[int], *, tokens: int, sampling: Sampling) -> Iterable[Piece]: ...


class Gone(Exception):
    """The client has left."""


@dataclass(frozen=True)
class Delta:
    """What a text grew by, and why it ended: "stop", "length", or not yet."""

    index: int
    text: str
    finish: str | None = None


class Answer:
    """The texts of one request, `asked.n` of each prompt. `most` new tokens are given at most."""

    def __init__(
        self, model: Model, asked: Asked, prompts: Sequence[Sequence[int]], metrics: Metrics, *, most: int,
        vocabulary: int,
    ) -> None:
        """Raises Refused where more tokens are asked for than there are or than are given. Nothing is written yet."""
        self.prompt_tokens, self.new_tokens = sum(len(ids) for ids in prompts), 0
        self._model, self._metrics, self._began = model, metrics, time.perf_counter()
        self._held = [Held(asked.stops) for _ in range(len(prompts) * asked.n)]
        self._loop, self._said = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Any]]()
        seed = secrets.randbits(31) if asked.seed is None else asked.seed
        top_k = min(asked.top_k or vocabulary, vocabulary)
        self._jobs = [
            self._job(index, prompts[index // asked.n], _room(asked, prompts[index // asked.n], model.context, most),
                      Sampling(asked.temperature, top_k, asked.top_p, (seed + index % asked.n) & 0x7FFF_FFFF))
            for index in range(len(self._held))
        ]

    def start(self, writers: Writers) -> None:
        """Put all texts to the writers. Raises Full, Closed."""
        writers.submit(self._jobs)
        self._metrics.prompt_tokens.add(self.prompt_tokens)

    def cancel(self) -> None:
        """Nothing is written any more."""
        for job in self._jobs:
            job.cancel()

    async def deltas(self, gone: Awaitable[Any]) -> AsyncGenerator[Delta, None]:
        """Each text's growth as it comes, until all have ended. Raises Gone when `gone` is done before, and whatever
        a text ended with. However this ends, nothing is written any more afterwards."""
        watch = asyncio.ensure_future(gone)
        watch.add_done_callback(lambda _: self._said.put_nowait((-1, Gone())))
        left, last = set(range(len(self._jobs))), dict[int, int]()
        try:
            while left:
                index, said = await self._said.get()
                if isinstance(said, Exception):
                    raise said
                if index not in left:
                    continue  # it stopped at a stop, and this was under way
                delta = self._ended(index, last) if said is None else self._grown(index, said, last)
                if delta.finish:
                    left.discard(index)
                    self._jobs[index].cancel()
                if delta.text or delta.finish:
                    yield delta
        except (Gone, asyncio.CancelledError, GeneratorExit):
            self._metrics.left.add()
            raise
        finally:
            self.cancel()
            watch.cancel()
            self._metrics.whole.add(time.perf_counter() - self._began)

    def _grown(self, index: int, piece: Piece, last: dict[int, int]) -> Delta:
        if not self.new_tokens:
            self._metrics.first.add(time.perf_counter() - self._began)
        self.new_tokens += 1
        self._metrics.new_tokens.add()
        last[index] = piece.token
        held = self._held[index]
        text = held.add(piece.text)
        return Delta(index, text, "stop" if held.stopped else None)

    def _ended(self, index: int, last: dict[int, int]) -> Delta:
        return Delta(index, self._held[index].rest(), "stop" if last.get(index) in self._model.ends else "length")

    def _job(self, index: int, ids: Sequence[int], tokens: int, sampling: Sampling) -> Job:
        return Job(lambda: self._model.begin(ids, tokens=tokens, sampling=sampling), self._told(index))

    def _told(self, index: int) -> Callable[[Any], None]:
        """Called in a writer's thread: hands over to the loop, unless that has ended."""

        def told(said: Any) -> None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._said.put_nowait, (index, said))

        return told


def _room(asked: Asked, ids: Sequence[int], context: int, most: int) -> int:
    """New tokens: as asked, or what the context leaves, but never more than are given."""
    left = context - len(ids)
    if asked.tokens is None:
        return min(left, most)
    if asked.max_tokens is not None or asked.tokens != asked.default_tokens:
        limit = min(left, most)
        if asked.tokens > limit:
            why = (f"the prompt's {len(ids)} tokens leave {left} of the model's {context}" if left < most
                   else f"this server gives {most} a request")
            raise Refused(f"{asked.tokens} new tokens were asked for, {why}", param="max_tokens",
                          code="context_length_exceeded" if left < most else "max_tokens_exceeded")
    return min(asked.tokens, left, most)
