"""reports/bench.json: how fast a bundle is beside its dense one, timed in turns in one run, and where its time went.

Ratios are dense over compressed, so more than 1 is better.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from foldrank.reports.form import STRICT, Form, Judged, Part
from foldrank.reports.machine import Environment, Method

SCHEMA: Final = "foldrank.bench/1"
Phase = Literal["prefill", "decode"]
Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Spread(Part):
    """How far samples scatter: first tokens', later tokens'."""

    ttft: float
    tpot: float


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Samples(Part):
    """Raw times in milliseconds."""

    ttft_ms: list[float]
    tpot_ms: list[float]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Row(Part):
    """One bundle in one engine under one workload: medians of its samples, and what they rest on."""

    bundle: str
    provider: str
    prompt_tokens: int
    context_tokens: int
    batch: int
    ttft_ms: float
    tpot_ms: float
    decode_tokens_per_s: float
    bytes_per_token: int
    bandwidth_use: float | None
    peak_rss_bytes: int | None
    placement: dict[str, int] | None
    engine: str | None = None
    decode_tokens: int | None = None
    prepare_ms: float | None = None
    prefill_flops: int | None = None
    cuda_graph: bool | None = None
    spread: Spread | None = None
    stable: bool | None = None
    unstable_because: str | None = None
    samples: Samples | None = None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Speedup(Part):
    """One phase under one workload. `ideal`: if time went as bytes (decode) or as FLOPs (prefill)."""

    phase: Phase
    ratio: float
    ci95: Interval
    ideal: float
    realised_over_ideal: float
    engine: str | None = None
    batch: int | None = None
    prompt_tokens: int | None = None
    context_tokens: int | None = None
    spread: float | None = None
    stable: bool | None = None
    unstable_because: str | None = None
    pair_ratios: list[list[float]] | None = None
    note: str | None = None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class NullRow(Part):
    """Dense against dense, in one phase under one workload."""

    phase: Phase
    engine: str
    batch: int
    prompt_tokens: int
    context_tokens: int
    ratio: float
    ci95: Interval
    contains_one: bool
    pair_ratios: list[list[float]]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class NullTest(Part):
    """Dense against dense: the row that stands for all, and how many of all do not contain 1."""

    ratio: float
    ci95: Interval
    passed: bool | None = None
    missed: int | None = None
    rows: list[NullRow] | None = None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Memory(Part):
    """One bundle in one engine: peak resident bytes of each launch, resident bytes before it opened."""

    bundle: str
    engine: str
    peak_rss_bytes: list[int | None]
    rss_before_bytes: int | None = None
    huge_page_bytes: int | None = None
    gpu_bytes: list[int | None] | None = None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Energy(Part):
    """Joules a token, prompts' reading with it, and what read them."""

    bundle: str
    engine: str
    joules_per_token: float | None
    energy_source: str


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Operators(Part):
    """Operators by type: as the graph has them, and as ONNX Runtime fused them."""

    before: dict[str, int]
    after: dict[str, int]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Placement(Part):
    """Where a bundle's nodes ran, and of one decoding step the microseconds, copies between providers, and casts."""

    bundle: str
    provider: str
    nodes: dict[str, int]
    operators: Operators
    steps: int
    step_us: dict[str, float]
    operator_us: dict[str, float]
    memcpy: int
    casts: int


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Peer(Part):
    """A peer's time over ours: that of the dense bundle, or of the compressed one where the peer runs the model in few
    bits itself. `ours_ms`, `theirs_ms`: medians, to the first token or per token. `what`: what the peer ran, where that
    is no library's reading of the checkpoint or the bundle."""

    peer: str
    phase: Phase
    batch: int
    prompt_tokens: int
    ratio: float
    ci95: Interval
    pair_ratios: list[list[float]]
    stable: bool
    against: Literal["dense", "compressed"] = "dense"
    ours_ms: float | None = None
    theirs_ms: float | None = None
    what: str | None = None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Peers(Part):
    """What was timed against our bundles in `engine`, and what was not, with the reason."""

    engine: str
    entries: list[Peer]
    unavailable: dict[str, str]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Bench(Judged):
    """What `foldrank bench` found. What follows `speedups` may lack in reports of earlier versions."""

    environment: Environment
    null_test: NullTest
    rows: list[Row]
    speedups: list[Speedup]
    memory: list[Memory] | None = None
    energy: list[Energy] | None = None
    placement: list[Placement] | None = None
    peers: Peers | None = None
    method: Method | None = None
    schema: Literal["foldrank.bench/1"] = SCHEMA

    def absent(self) -> Iterable[str]:
        """Peers that nobody asked for."""
        return ("peers",) if self.peers is None else ()


E = TypeVar("E", Speedup, NullRow)


def headline(entries: Iterable[E]) -> E:
    """The one that stands for all: decoding, smallest batch, shortest prompt, first engine. No choosing of the best.

    Raises ValueError where none is of decoding.
    """
    decoding = [entry for entry in entries if entry.phase == "decode"]
    return min(decoding, key=lambda entry: (entry.batch or 0, entry.prompt_tokens or 0))


FORM: Final = Form("reports/bench.json", Bench, SCHEMA, "foldrank bench")
