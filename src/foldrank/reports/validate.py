"""reports/validate.json: does the graph compute what the plan says, and what did that cost in quality?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from pydantic.dataclasses import dataclass

from foldrank.reports.form import STRICT, Form, Judged, Part
from foldrank.reports.tasks import Sample, Tasks

SCHEMA: Final = "foldrank.validate/1"
Measure = Literal["max_relative_error", "kl_nats"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Check(Part):
    """One question of the graph proof: `value` is held against `limit`, in older reports the proof's."""

    name: str
    positions: int
    value: float
    argmax_agreement: float
    passed: bool
    limit: float | None = None
    measure: Measure | None = None

    def absent(self) -> Iterable[str]:
        """What older reports do not have."""
        return ("limit", "measure") if self.measure is None else ()


@dataclass(frozen=True, config=STRICT, kw_only=True)
class WeightsKept(Part):
    """Whether weights are held bit for bit, as they came or as they were planned: how many were compared, the first
    that differ."""

    compared: int
    differ: list[str]
    passed: bool


@dataclass(frozen=True, config=STRICT, kw_only=True)
class GraphProof(Part):
    """The graph against an independent reference: errors over the largest logit, KL in nats. `passed` is null where the
    proof was not run. `few_bits_kept`: weights that came in few bits; `numbers_planned`: those whose numbers the plan
    holds; `weights_kept`: those that no edit touches, as the checkpoint has them. `fault`: what is to blame for one
    that failed, the "export" or the "plan"."""

    reference: str
    positions: int
    max_relative_error: float | None
    argmax_agreement: float | None
    passed: bool | None
    kl_nats: float | None = None
    largest_logit: float | None = None
    cached_decode_error: float | None = None
    padded_error: float | None = None
    batch_error: float | None = None
    measure: Measure | None = None
    limit: float | None = None
    checks: list[Check] | None = None
    few_bits_kept: WeightsKept | None = None
    numbers_planned: WeightsKept | None = None
    weights_kept: WeightsKept | None = None
    fault: str | None = None

    def absent(self) -> Iterable[str]:
        """What only a proof that was run has, what only a failed one has, weights where none came in few bits."""
        if self.measure is None:
            yield from ("largest_logit", "cached_decode_error", "padded_error", "batch_error", "measure", "limit",
                        "checks")
        if self.passed is not False:
            yield "fault"
        if self.few_bits_kept is None:
            yield "few_bits_kept"
        if self.numbers_planned is None:
            yield "numbers_planned"
        if self.weights_kept is None:
            yield "weights_kept"

    @property
    def value(self) -> float | None:
        """What the limit is held against."""
        return self.kl_nats if self.measure == "kl_nats" else self.max_relative_error


NOT_RUN: Final = GraphProof(
    reference="not run", positions=0, max_relative_error=None, argmax_agreement=None, passed=None)
"""Where the proof was not asked for: never a pass."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Quality(Part):
    """The bundle against the dense one on held-out text: `tokens` were predicted, in `windows` of `window` tokens. Of
    prompts of `greedy_prompt_tokens` both wrote on: so many tokens were equal before they parted."""

    tokens: int
    dense_perplexity: float
    perplexity: float
    perplexity_ratio: float
    kl_nats: float
    top1_agreement: float
    greedy_prefix_tokens: float
    window: int | None = None
    windows: int | None = None
    greedy_prefixes: list[int] | None = None
    greedy_prompt_tokens: int | None = None
    greedy_continued_tokens: int | None = None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class HeldOut(Part):
    """The text: its name, sha256 of its bytes, the token that each window opens with."""

    name: str
    sha256: str
    bos: int | None = None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Validation(Judged):
    """What `foldrank validate` found. `instead_of`: the provider that was asked for and did not start; `placement`:
    nodes by execution provider."""

    graph: GraphProof
    quality: Quality
    samples: list[Sample] | None = None
    seed: int | None = None
    provider: str | None = None
    instead_of: str | None = None
    threads: int | None = None
    text: HeldOut | None = None
    versions: dict[str, str] | None = None
    placement: dict[str, int] | None = None
    tasks: Tasks | None = None
    schema: Literal["foldrank.validate/1"] = SCHEMA

    def absent(self) -> Iterable[str]:
        """Tasks that were not asked for."""
        return ("tasks",) if self.tasks is None else ()


FORM: Final = Form("reports/validate.json", Validation, SCHEMA, "foldrank validate")
