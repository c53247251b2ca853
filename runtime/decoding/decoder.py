"""Decode with ONNX Runtime: prefill a prompt, then step with the cache kept as OrtValues on the device.

Two ways to keep the cache: *growing* (each run returns a longer one: any exporter's graph) and *shared* (one buffer of
fixed capacity, written in place: graphs with GroupQueryAttention only, as onnxruntime-genai does it).
Axes: B rows, T tokens of this run, V vocabulary. Knows nothing of tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foldrank import strictjson
from foldrank.bundle.configs import head_size
from foldrank.errors import GraphNotRecognized
from foldrank.ports import Port
from foldrank.runtime.providers.provider import Provider, load_onnxruntime
from foldrank.runtime.sessions.session import Session, Spinning, open_session

Tokens = NDArray[np.int64]
Logits = NDArray[np.float32]

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""ONNX Runtime's type names as numpy types; `BFLOAT16` for the one numpy lacks."""
BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16: numpy has no such type, ONNX Runtime takes the number


class Decoder(Protocol):
    """Greedy decoding, one run of the model per call: what the benchmark times."""

    def prepare(self, rows: int) -> None:
        """Make what a request of so many rows needs before the model runs. Optional: `first` does it otherwise."""

    def first(self, prompt_BT: Tokens) -> Tokens:
        """Forget everything, read the prompt, give each row's next token [B]."""

    def next(self) -> Tokens:
        """Feed back the tokens given last, give the next ones [B]."""


@dataclass(frozen=True)
class CacheLayout:
    """The cache of a graph: `pairs` keys and values [B, heads, past, head_size] of one type."""

    pairs: int
    heads: int
    head_size: int
    type: str

    @classmethod
    def of(cls, session: Session, folder: Path) -> CacheLayout:
        """Read from the graph's inputs; a symbolic head size from genai_config.json or config.json beside it."""
        ports = {n: p for n, p in session.inputs.items() if n.startswith("past_key_values.")}
        keys = [p for n, p in sorted(ports.items()) if n.endswith(".key")]
        kinds = {(p.shape[1], p.shape[3], p.type) for p in ports.values()}
        if len(kinds) != 1 or len(ports) != 2 * len(keys):
            raise GraphNotRecognized(session.model, "no equal past_key_values.N.key/.value pairs", "export again")
        _, heads, _, size = keys[0].shape
        if not isinstance(heads, int):
            raise GraphNotRecognized(session.model, "the number of KV heads is symbolic", "export again")
        return cls(len(keys), heads, size if isinstance(size, int) else head_size(folder), keys[0].type)


def shares_buffer(folder: Path) -> bool:
    """Whether genai_config.json says that past and present may be one buffer."""
    path = folder / "genai_config.json"
    return path.is_file() and bool(strictjson.read(path).get("search", {}).get("past_present_share_buffer"))


class OrtDecoder:
    """A session and its cache. Rows may be padded where the graph lets them (`graph.padding`)."""

    def __init__(self, session: Session, cache: CacheLayout, *, capacity: int | None = None) -> None:
        """`capacity`: share one buffer of so many positions (GroupQueryAttention only); None: a growing cache."""
        self.session, self.cache, self.capacity = session, cache, capacity
        self._ort = load_onnxruntime()
        self._past: dict[str, Any] = {}
        self._mask: Tokens = np.zeros((0, 0), np.int64)
        self._last: Tokens = np.zeros(0, np.int64)

    @classmethod
    def open(
        cls, folder: Path, provider: Provider, *, threads: int | None = None, capacity: int | None = None,
        spinning: Spinning = "always", rounds: bool = True,
    ) -> OrtDecoder:
        """Open the model.onnx of a folder; `rounds` and errors as of `open_session`, and GraphNotRecognized."""
        session = open_session(folder / "model.onnx", provider, threads=threads, spinning=spinning, rounds=rounds)
        return cls(session, CacheLayout.of(session, folder), capacity=capacity)

    def prefill(self, input_ids_BT: Tokens, attention_mask_BT: Tokens | None = None) -> Logits:
        """Forget the cache and read B prompts. Gives logits [B, T, V] of every position."""
        ids = np.ascontiguousarray(input_ids_BT, dtype=np.int64)
        mask = np.ones_like(ids) if attention_mask_BT is None else np.ascontiguousarray(attention_mask_BT, np.int64)
        if ids.ndim != 2 or ids.shape != mask.shape or not ids.size:
            raise ValueError(f"input_ids {ids.shape} and attention_mask {mask.shape} must be one [B, T], not empty")
        self._past, self._mask = self._empty_cache(len(ids)), mask
        return self._run(ids)

    def step(self, input_ids_BT: Tokens) -> Logits:
        """Read T more tokens per row (commonly one). Gives their logits [B, T, V]."""
        ids = np.ascontiguousarray(input_ids_BT, dtype=np.int64)
        if not self._past or ids.ndim != 2 or len(ids) != len(self._mask):
            raise ValueError(f"step {ids.shape} does not follow a prefill of as many rows")
        self._mask = np.concatenate([self._mask, np.ones_like(ids)], axis=1)
        return self._run(ids)

    def prepare(self, rows: int) -> None:
        """Nothing: the cache is made as the prompt is read."""

    def first(self, prompt_BT: Tokens) -> Tokens:
        """Forget everything, read prompts of equal length, give each row's likeliest next token [B]."""
        self._last = self.prefill(prompt_BT)[:, -1].argmax(axis=-1)
        return self._last

    def next(self) -> Tokens:
        """Feed back the tokens given last, give the next ones [B]."""
        self._last = self.step(self._last[:, None])[:, -1].argmax(axis=-1)
        return self._last

    def generate(self, prompt_BT: Tokens, tokens: int) -> Tokens:
        """Greedy continuation [B, tokens]; knows no end-of-text token."""
        steps = [self.first(prompt_BT), *(self.next() for _ in range(tokens - 1))]
        return np.stack(steps, axis=1)

    def _run(self, ids_BT: Tokens) -> Logits:
        if self.capacity is not None and self._mask.shape[1] > self.capacity:
            raise ValueError(f"{self._mask.shape[1]} positions do not fit a cache of {self.capacity}")
        binding = self.session.handle.io_binding()
        held = self._bind_inputs(binding, ids_BT)
        names = list(self.session.outputs)
        logits = self._bind_outputs(binding, ids_BT.shape)
        self.session.handle.run_with_iobinding(binding)
        del held
        if self.capacity is None:
            outputs = dict(zip(names, binding.get_outputs(), strict=True))
            self._past = {name: outputs[_present(name)] for name in self._past}
        return logits.astype(np.float32, copy=False)

    def _bind_inputs(self, binding: Any, ids_BT: Tokens) -> list[Any]:
        """Bind every input; gives what must stay alive until the run ends."""
        feeds = {"input_ids": ids_BT, "attention_mask": self._mask}
        if "position_ids" in self.session.inputs:
            positions = np.maximum(self._mask.cumsum(axis=1) - 1, 0)[:, -ids_BT.shape[1]:]
            feeds["position_ids"] = np.ascontiguousarray(positions)
        held = []
        for name, array in feeds.items():
            if name in self.session.inputs:
                held.append(self._ort.OrtValue.ortvalue_from_numpy(array))
                binding.bind_ortvalue_input(name, held[-1])
        for name, value in self._past.items():
            binding.bind_ortvalue_input(name, value)
        return held

    def _bind_outputs(self, binding: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """Bind logits to an array of ours, the cache to its buffers or to the device. Gives the logits' array."""
        port, device = self.session.outputs["logits"], self.session.provider
        logits = np.empty((*shape, vocabulary(self.session, port)), TYPES[port.type])
        for name in self.session.outputs:
            if name == "logits":
                binding.bind_ortvalue_output(name, self._ort.OrtValue.ortvalue_from_numpy(logits))
            elif self.capacity is not None:
                binding.bind_ortvalue_output(name, self._past[_past(name)])
            else:
                binding.bind_output(name, device.device, device.device_id)
        return logits

    def _empty_cache(self, rows: int) -> dict[str, Any]:
        shape = (rows, self.cache.heads, self.capacity or 0, self.cache.head_size)
        dtype, device = TYPES.get(self.cache.type, BFLOAT16), self.session.provider
        return {
            f"past_key_values.{pair}.{part}": self._ort.OrtValue.ortvalue_from_shape_and_type(
                shape, dtype, device.device, device.device_id)
            for pair in range(self.cache.pairs) for part in ("key", "value")
        }


def _present(past: str) -> str:
    return past.replace("past_key_values.", "present.")


def _past(present: str) -> str:
    return present.replace("present.", "past_key_values.")


def vocabulary(session: Session, port: Port) -> int:
    """Length of the logits' last axis. Raises GraphNotRecognized where it is symbolic."""
    size = port.shape[-1]
    if not isinstance(size, int):
        raise GraphNotRecognized(session.model, "logits have a symbolic vocabulary axis", "export again")
    return size
