"""The machine that reports/bench.json was measured on, and how it was timed there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field

from pydantic.dataclasses import dataclass

from foldrank.reports.form import STRICT, Part

Facts = dict[str, str | int | float | list[str] | None]
"""What a GPU tells of itself."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Environment(Part):
    """The machine, as far as it bears on speed; None where it does not tell. `gpu` and its states before and after:
    only of a run on a GPU."""

    threads: int
    versions: dict[str, str]
    cpu_model: str | None = None
    physical_cores: int | None = None
    logical_cores: int | None = None
    allowed_cores: int | None = None
    last_level_cache_bytes: int | None = None
    memory_bytes: int | None = None
    governor: str | None = None
    system: str | None = None
    load_average: list[float] | None = None
    gpu: Facts | None = None
    gpu_states: list[Facts | None] | None = None
    bandwidth_bytes_per_s: float | None = None
    bandwidth_probes_bytes_per_s: list[float] | None = None
    spinning: str | None = None
    glibc_tunables: str | None = None
    pinned: bool | None = None

    def absent(self) -> Iterable[str]:
        """A GPU, on a CPU."""
        return ("gpu", "gpu_states") if self.gpu_states is None else ()


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Method(Part):
    """How it was timed. `left_out`: engines and prompts that no time was left for, with the reason."""

    profile: str
    provider: str
    instead_of: str | None
    engines: list[str]
    unavailable: dict[str, str]
    order: str
    turns: str
    pairs: int
    warmups: int
    launches: int
    seed: int
    dropped_prompts: list[int]
    ratio: str
    spread: str
    unstable_above: float
    interval: str
    left_out: dict[str, str] = field(default_factory=dict)

    def absent(self) -> Iterable[str]:
        """Nothing left out."""
        return () if self.left_out else ("left_out",)
