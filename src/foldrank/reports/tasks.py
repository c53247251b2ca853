"""The part `tasks` of reports/validate.json: what a bundle does at small tasks, beside its dense one."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from foldrank.reports.form import STRICT, Part

NEEDED = {"lm_eval": "tasks", "jinja2": "tasks"}
"""Libraries without which they do not run, and the extra that brings each."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Sample(Part):
    """Words of a text, and what each bundle writes after them."""

    prompt: str
    dense: str
    bundle: str


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Accuracy(Part):
    """The share of items done right, and its standard error."""

    accuracy: float
    standard_error: float


@dataclass(frozen=True, config=STRICT, kw_only=True)
class TaskRow(Part):
    """One task in one of lm-eval's back ends: `metric` as lm-eval calls it; `difference` is the bundle's accuracy less
    the dense one's on the same items, with a bootstrap interval over items."""

    task: str
    backend: str
    metric: str
    items: int
    dense: Accuracy
    bundle: Accuracy
    difference: float
    ci95: list[float]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Chat(Part):
    """Greedy answers to questions: of `tokens` that dense wrote, the share that the bundle wrote in the same place, and
    how many were equal before the two parted. `templated`: put in the tokenizer's chat template."""

    questions: int
    templated: bool
    tokens: int
    equal: float
    prefix_tokens: float
    samples: list[Sample]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Tasks(Part):
    """Made from the held-out text by a program with `seed`, of `choices` choices each: a guess is right in one of so
    many. `missing`: back ends that are not there, with the reason."""

    rows: list[TaskRow]
    chat: Chat
    choices: int
    seed: int
    lm_eval: str
    missing: dict[str, str]
