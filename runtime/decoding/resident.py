"""Greedy decoding that stays on the device: next tokens are picked there and read back as the next input.

Shapes and addresses are the same at every step (one cache buffer of fixed capacity, one mask as long as it, one token
a row), so a CUDA graph of a step can be captured once and replayed, which takes the launches of its kernels off the
host (ONNX Runtime, "CUDA Execution Provider", section Using CUDA Graphs). The mask's length stands for the longest
sequence, its ones for the positions in use, as onnxruntime-genai does it. For graphs whose GroupQueryAttention counts
the mask's ones. Axes: B rows, T tokens of a prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foldrank import small_graphs
from foldrank.errors import GraphNotRecognized, ProviderUnavailable
from foldrank.runtime.decoding.decoder import (
    BFLOAT16,
    TYPES,
    CacheLayout,
    OrtDecoder,
    Tokens,
    shares_buffer,
    vocabulary,
)
from foldrank.runtime.providers.provider import Provider, load_onnxruntime
from foldrank.runtime.sessions.session import Session, Spinning, open_session, open_small

GRAPH_OPTION = "enable_cuda_graph"
_NO_GRAPH = "-1"


def open_decoder(
    folder: Path, provider: Provider, *, threads: int | None = None, spinning: Spinning = "always"
) -> ResidentDecoder | OrtDecoder:
    """The fastest loop of ours that the bundle allows there: resident on a device, else the general one."""
    if provider.device == "cpu" or not shares_buffer(folder):
        return OrtDecoder.open(folder, provider, threads=threads, spinning=spinning)
    return ResidentDecoder.open(folder, provider, threads=threads, spinning=spinning)


@dataclass
class Buffers:
    """What one size of request is run in; `number` names its captured graph."""

    number: int
    binding: Any
    ids: Any
    mask: Any
    logits: Any
    past: dict[str, Any]


class ResidentDecoder:
    """A session, the session that picks tokens, and buffers for every size of request so far.

    `capacity`: positions of the cache, prompt and continuation together; set it before `prepare` or `first`.
    `graph`: whether steps are captured and replayed; if not, `why_no_graph` says why.
    """

    def __init__(self, session: Session, cache: CacheLayout, why_no_graph: str | None) -> None:
        """Use `open`."""
        self.session, self.cache, self.why_no_graph = session, cache, why_no_graph
        self.capacity = 0
        self._ort = load_onnxruntime()
        self._picker = _picker(session)
        self._sizes: dict[tuple[int, int], Buffers] = {}
        self._used = 0
        self._now: Buffers | None = None
        self._filled = np.zeros((0, 0), np.int64)

    @classmethod
    def open(
        cls, folder: Path, provider: Provider, *, threads: int | None = None, spinning: Spinning = "always"
    ) -> ResidentDecoder:
        """Open the model.onnx of a folder, with CUDA graphs where the provider and the graph allow them.

        `enable_cuda_graph=0` among the provider's options turns them off. Raises as `open_session` does, and
        GraphNotRecognized where the graph wants positions or keeps no shared buffer.
        """
        session, why = _with_graph(folder / "model.onnx", provider, threads, spinning)
        if "position_ids" in session.inputs or not shares_buffer(folder):
            raise GraphNotRecognized(session.model, "its cache is not one shared buffer", "use the general decoder")
        return cls(session, CacheLayout.of(session, folder), why)

    @property
    def graph(self) -> bool:
        """Whether steps are replayed from a captured CUDA graph."""
        return self.why_no_graph is None

    def prepare(self, rows: int) -> None:
        """Make the buffers of so many rows at the present capacity, once."""
        size = (rows, self.capacity)
        if size not in self._sizes:
            self._sizes[size] = self._buffers(rows, number=len(self._sizes) + 1)
        self._now = self._sizes[size]

    def first(self, prompt_BT: Tokens) -> Tokens:
        """Forget everything, read prompts of equal length, give each row's likeliest next token [B]."""
        ids = np.ascontiguousarray(prompt_BT, dtype=np.int64)
        rows, length = ids.shape
        if not 0 < length < self.capacity:
            raise ValueError(f"a prompt of {length} does not fit a cache of {self.capacity} with room for more")
        self.prepare(rows)
        now = self._buffers_now()
        logits = self._on_device((rows, length, self._vocabulary), self.session.outputs["logits"].type)
        feeds = {"input_ids": self._ort.OrtValue.ortvalue_from_numpy(ids),
                 "attention_mask": self._ort.OrtValue.ortvalue_from_numpy(np.ones_like(ids))}
        binding = self._bound(feeds, now.past, logits)
        self._run(binding, _NO_GRAPH)
        self._filled = np.zeros((rows, self.capacity), np.int64)
        self._filled[:, :length] = 1
        self._used = length
        return self._pick(logits, now)

    def next(self) -> Tokens:
        """Feed back the tokens given last, give the next ones [B]."""
        now = self._buffers_now()
        if self._used >= self.capacity:
            raise ValueError(f"the cache of {self.capacity} positions is full")
        self._filled[:, self._used] = 1
        self._used += 1
        now.mask.update_inplace(self._filled)
        self._run(now.binding, str(now.number))
        return self._pick(now.logits, now)

    def generate(self, prompt_BT: Tokens, tokens: int) -> Tokens:
        """Greedy continuation [B, tokens]; knows no end-of-text token."""
        steps = [self.first(prompt_BT), *(self.next() for _ in range(tokens - 1))]
        return np.stack(steps, axis=1)

    @property
    def _vocabulary(self) -> int:
        return vocabulary(self.session, self.session.outputs["logits"])

    def _buffers_now(self) -> Buffers:
        if self._now is None:
            raise ValueError("a step does not follow a prompt")
        return self._now

    def _buffers(self, rows: int, number: int) -> Buffers:
        shape = (rows, self.cache.heads, self.capacity, self.cache.head_size)
        past = {
            f"past_key_values.{pair}.{part}": self._on_device(shape, self.cache.type)
            for pair in range(self.cache.pairs) for part in ("key", "value")
        }
        ids, mask = (self._on_device(size, "tensor(int64)") for size in ((rows, 1), (rows, self.capacity)))
        logits = self._on_device((rows, 1, self._vocabulary), self.session.outputs["logits"].type)
        binding = self._bound({"input_ids": ids, "attention_mask": mask}, past, logits)
        return Buffers(number, binding, ids, mask, logits, past)

    def _on_device(self, shape: tuple[int, ...], kind: str) -> Any:
        dtype = np.int64 if kind == "tensor(int64)" else TYPES.get(kind, BFLOAT16)
        provider = self.session.provider
        return self._ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, provider.device, provider.device_id)

    def _bound(self, feeds: Mapping[str, Any], past: Mapping[str, Any], logits: Any) -> Any:
        binding = self.session.handle.io_binding()
        for name, value in {**feeds, **past}.items():
            binding.bind_ortvalue_input(name, value)
        for name in self.session.outputs:
            held = logits if name == "logits" else past[name.replace("present.", "past_key_values.")]
            binding.bind_ortvalue_output(name, held)
        return binding

    def _run(self, binding: Any, graph: str) -> None:
        options = self._ort.RunOptions()
        if self.graph:
            options.add_run_config_entry("gpu_graph_id", graph)
        self.session.handle.run_with_iobinding(binding, options)

    def _pick(self, logits: Any, now: Buffers) -> Tokens:
        """The likeliest tokens, into the next step's input; a copy of them [B]."""
        binding = self._picker.io_binding()
        binding.bind_ortvalue_input("logits", logits)
        binding.bind_ortvalue_output("tokens", now.ids)
        self._picker.run_with_iobinding(binding)
        return np.asarray(now.ids.numpy()[:, 0], dtype=np.int64).copy()


def _with_graph(
    model: Path, provider: Provider, threads: int | None, spinning: Spinning
) -> tuple[Session, str | None]:
    """A session that captures graphs, or one that does not and the reason."""
    why = f"{provider.short} has none" if provider.short != "cuda" else None
    if why is None and provider.options.get(GRAPH_OPTION, "1") in ("0", "False", "false"):
        why = "turned off"
    if why is None:
        capturing = replace(provider, options={**provider.options, GRAPH_OPTION: "1"})
        try:
            return open_session(model, capturing, threads=threads, spinning=spinning), None
        except ProviderUnavailable as error:
            if "graph" not in error.what.lower():
                raise
            why = error.what
    return open_session(model, provider, threads=threads, spinning=spinning), why


def _picker(session: Session) -> Any:
    """A session of one small graph: logits [B, T, V] to the likeliest token [B, 1] of the last position."""
    kind = session.outputs["logits"].type.removeprefix("tensor(").removesuffix(")")
    return open_small(small_graphs.picking(kind), session.provider)
