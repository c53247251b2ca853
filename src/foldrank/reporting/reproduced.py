"""The commands that make the bundle again, from what its manifest and plan say of how it was made."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from foldrank.reporting import lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.parts import Commands, Part

_BUNDLED = "foldrank.texts/"
"""Texts that come with the package: the default, which needs no option."""


def reproduced(evidence: Evidence) -> list[Part]:
    """One command for a dense bundle, three for a compressed one; nothing where neither manifest nor plan tells."""
    dense = _export(evidence)
    if dense is None:
        return []
    if evidence.plan is None:
        return [Commands("To make this bundle again:", (_line(*dense, "-o", "dense"),))]
    lines = (_line(*dense, "-o", "dense"), _line(*_plan(evidence), "-o", "plan"),
             _line("foldrank", "apply", "dense", "plan", "-o", "small"))
    return [Commands("To make this bundle again, with the versions below; texts are named by their files:", lines)]


def _export(evidence: Evidence) -> list[str] | None:
    """As the dense bundle's manifest has it, else from what a compressed one keeps of it."""
    command = lookup.text(evidence.manifest, "command") or ""
    if evidence.plan is None and command.startswith("export "):
        return ["foldrank", *command.split()]
    exporter, dtype = lookup.text(evidence.manifest, "exporter"), lookup.text(evidence.manifest, "dtype")
    if evidence.name is None or exporter is None or dtype is None:
        return None
    options = lookup.at(evidence.genai_config, "model", "decoder", "session_options", "provider_options")
    cuda = isinstance(options, list) and any("cuda" in item for item in options if isinstance(item, Mapping))
    return ["foldrank", "export", evidence.name, "--exporter", exporter, "--dtype", dtype,
            *(["--provider", "cuda"] if cuda else [])]


def _plan(evidence: Evidence) -> Iterator[str]:
    calibration = lookup.at(evidence.plan, "calibration")
    yield from ("foldrank", "plan", evidence.name or "")
    for step in evidence.steps:
        yield from _recover(step) if step.get("method") == "recover" else ("--method", _method(step))
    name = lookup.text(calibration, "name") or ""
    corpus, like, other = name.partition(" like ")  # so `plans/likeness.py` calls documents of one like another's
    if like:
        yield from ("--calibration-from", corpus, "--like", other)
    elif name and not name.startswith(_BUNDLED):
        yield from ("--calibration", name)
    for option, key in (("--calibration-tokens", "tokens"), ("--seed", "seed"), ("--shards", "shards")):
        if (value := lookup.integer(calibration, key)) is not None:
            yield from (option, str(value))
    if isinstance(calibration, Mapping):  # said outright: a plan does not tell whether it was left to the tokenizer
        yield from ("--bos", "never" if lookup.integer(calibration, "bos") is None else "always")


def _method(step: Mapping[str, Any]) -> str:
    """`dipsvd:align=1,keep=0.8`, every setting as it was, defaults too: those of another version may differ."""
    given = [f"{key}={_value(value)}" for key, value in sorted(lookup.pairs(step, "settings").items())
             if value not in (None, "")]
    name = lookup.text(step, "method") or "?"
    return f"{name}:{','.join(given)}" if given else name


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _recover(step: Mapping[str, Any]) -> Iterator[str]:
    yield from ("--recover", lookup.text(step, "settings", "kind") or "?")
    minutes = lookup.number(step, "settings", "minutes")  # sets batches too, so that steps alone do not say it
    if minutes is not None:
        yield from ("--recover-minutes", f"{minutes:g}")
    for option, key in (("--recover-tokens", "tokens"), *([("--recover-steps", "steps")] if minutes is None else [])):
        if (value := lookup.integer(step, "settings", key)) is not None:
            yield from (option, str(value))
    for option in ("target", "select"):
        if (name := lookup.text(step, "settings", option)) is not None:
            yield from (f"--recover-{option}", name)
    if (blocks := lookup.integer(step, "settings", "lisa")) is not None:
        yield from ("--recover-lisa", str(blocks))
    text = (lookup.text(step, "settings", "text") or "").rpartition(" ")[0]
    if text and " like " not in text and not text.startswith(_BUNDLED):
        yield from ("--recover-text", text)


def _line(*words: str) -> str:
    return shlex.join(words)
