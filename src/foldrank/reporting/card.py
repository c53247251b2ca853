"""The bundle's README.md: a model card in Markdown with YAML front matter, from the bundle's JSON files alone.

Part of the base install: needs neither matplotlib nor jinja2. States what is in the files and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from foldrank.edits.story import beyond_config, story
from foldrank.reporting import card_licence as licence
from foldrank.reporting import figures, lookup, snippets
from foldrank.reporting.batches import batches
from foldrank.reporting.card_measured import model_index, quality, speed
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.export_proved import export_proved
from foldrank.reporting.markdown import bullets, code, plain, table
from foldrank.reporting.weight_bytes import split

_FILES = {
    "model.onnx": "the graph",
    "model.onnx.data": "the weights",
    "genai_config.json": "settings of onnxruntime-genai",
    "config.json": "the decoder's configuration",
    "generation_config.json": "default generation settings",
    "tokenizer.json": "the tokenizer",
    "plan/plan.json": "what was done to the weights, edit by edit",
    "plan/factors.safetensors": "the low-rank factors, float32",
    "plan/diagnostics.json": "what the report's pictures are drawn from",
    "reports/receipts.json": "what each graph pass did",
    "reports/validate.json": "graph proof and quality",
    "reports/bench.json": "speed, with raw samples",
    "report.html": "the report: open it in a browser",
    "manifest.json": "size and sha256 of every file",
}


def model_card(folder: Path, *, manifest: Mapping[str, Any] | None = None, also: tuple[str, ...] = ()) -> str:
    """Markdown for `folder`/README.md, whether or not its manifest is written yet.

    `manifest`: what manifest.json will say (`source`, `exporter`, `dtype`), where it is not there yet.
    `also`: files about to be written, to be listed too. Raises BundleError where a JSON file is damaged.
    """
    evidence = Evidence.read(folder)
    if evidence.manifest is None and manifest is not None:
        evidence = replace(evidence, manifest=dict(manifest))
    sections = (
        _front_matter(evidence),
        _title(evidence),
        _done(evidence),
        quality(evidence.validate),
        speed(evidence.bench),
        _loading(evidence),
        _files(evidence, also),
        _provenance(evidence),
    )
    return "\n\n".join(part for part in sections if part) + "\n"


def packaged_card(folder: Path, *, library: str, program: tuple[str, str]) -> str:
    """The card of the bundle in `folder` as it is packaged for `library`; `program` is a language and what loads it.

    Raises BundleError where a JSON file is damaged.
    """
    evidence = Evidence.read(folder)
    language, text = program
    sections = (
        _front_matter(evidence, library),
        _title(evidence, library),
        _done(evidence),
        quality(evidence.validate),
        speed(evidence.bench),
        f"## How to load it\n\nWith {library}:\n\n```{language}\n{text}```",
        _provenance(evidence, manifest=False),
    )
    return "\n\n".join(part for part in sections if part) + "\n"


def _front_matter(evidence: Evidence, library: str = "foldrank") -> str:
    runtimes = ["onnxruntime", "onnxruntime-genai"] if library == "foldrank" else [library]
    data: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["onnx", *runtimes, "foldrank"],
    }
    if evidence.name and re.fullmatch(r"[\w.-]+/[\w.-]+", evidence.name):
        data["base_model"] = evidence.name
        data["base_model_relation"] = "quantized" if evidence.stored else "finetune"
    data |= licence.metadata(evidence)
    if index := model_index(evidence.name or evidence.architecture or "decoder", evidence.validate):
        data["model-index"] = index
    return f"---\n{yaml.safe_dump(data, sort_keys=True, allow_unicode=True)}---"


def _title(evidence: Evidence, runtime: str = "onnxruntime-genai and ONNX Runtime") -> str:
    compressed = evidence.plan is not None
    name = plain(evidence.name or evidence.architecture or "Decoder")
    kind = "compressed with foldrank, ONNX" if compressed else "ONNX"
    blocks = figures.whole(evidence.blocks) if evidence.blocks is not None else "an unknown number of"
    lines = [
        f"{plain(evidence.architecture or 'A decoder')} with {blocks} blocks as an ONNX graph with key/value cache, "
        f"for {runtime}."
    ]
    if evidence.name:
        lines.append(
            f"Source checkpoint: {code(evidence.name)}"
            + (f" ({figures.whole(evidence.source_blocks)} blocks)." if compressed else ".")
        )
    if dtype := lookup.text(evidence.manifest, "dtype"):
        lines.append(f"The graph's floats are {plain(dtype)}.")
    if evidence.model_bytes:
        lines.append(f"Graph and weights: {figures.size(evidence.model_bytes)}.")
    if (found := split(evidence)) is not None and found.read.here != found.blocks.here:
        lines.append(f"Blocks share weights: they hold {figures.size(found.blocks.here)} of them, and a token reads "
                     f"{figures.size(found.read.here)} ({figures.percent(found.read.here / found.read.dense)} of what "
                     "it reads in the dense blocks).")
    lines.append(licence.sentence(evidence))
    return f"# {name}, {kind}\n\n" + "\n".join(lines)


def _done(evidence: Evidence) -> str:
    if evidence.plan is None:
        return "## What was done\n\nExported; no compression plan was applied."
    steps = table(
        ("step", "method", "settings", "keep asked", "keep reached"),
        [
            (
                str(i),
                code(lookup.text(step, "method") or "?"),
                _settings(step),
                _share(lookup.number(step, "keep", "asked"), "not asked"),
                _share(lookup.number(step, "keep", "reached"), "?"),
            )
            for i, step in enumerate(evidence.steps, 1)
        ],
    )
    lines = [plain(line) for line in story(evidence.edits)]
    kept = (
        f"Share of the decoder blocks' weights that remains: {figures.percent(evidence.kept)}." if evidence.kept else ""
    )
    return "\n\n".join(part for part in ("## What was done", steps, bullets(lines), kept) if part)


def _settings(step: Mapping[str, Any]) -> str:
    given = {key: value for key, value in sorted(lookup.pairs(step, "settings").items()) if value is not None}
    return ", ".join(code(f"{key}={value}") for key, value in given.items()) or "none"


def _share(value: float | None, missing: str) -> str:
    return missing if value is None else figures.percent(value)


def _loading(evidence: Evidence) -> str:
    context = lookup.integer(evidence.genai_config, "model", "context_length")
    options = lookup.at(evidence.genai_config, "model", "decoder", "session_options", "provider_options")
    cuda = isinstance(options, list) and any("cuda" in item for item in options if isinstance(item, Mapping))
    parts = ["## How to load it"]
    if evidence.genai_config is not None:
        parts += ["With onnxruntime-genai (batches: rows of equal length, or padded on the right):",
                  f"```python\n{snippets.genai(context)}```",
                  "To go on after an answer, take back its last two tokens first, since onnxruntime-genai (0.18) never "
                  f"read the last one:\n\n```python\n{snippets.CONTINUED}```"]
    if lookup.text(evidence.manifest, "dtype") == "bf16":
        parts.append("numpy has no bf16, which ONNX Runtime would take from it: use onnxruntime-genai for this bundle.")
    elif evidence.cache_shape is not None:
        program = snippets.ort("cuda" if cuda else "cpu", *evidence.cache_shape)
        parts += ["With ONNX Runtime alone:", f"```python\n{program}```"]
    unsaid = beyond_config(evidence.edits, evidence.blocks or 0)
    parts += [told for told in (batches(evidence.manifest), unsaid) if told]
    return "\n\n".join(parts)


def _files(evidence: Evidence, also: tuple[str, ...]) -> str:
    present = {*evidence.sizes, *also, "manifest.json"}
    rows = [
        (
            code(name),
            what,
            figures.size(evidence.sizes[name])
            if name in evidence.sizes and name not in also and name != "manifest.json"
            else "",
        )
        for name, what in (*_FILES.items(), *((name, "licence of the source") for name in licence.files(evidence)))
        if name in present
    ]
    return "## Files\n\n" + table(("file", "what it holds", "size"), rows)


def _provenance(evidence: Evidence, *, manifest: bool = True) -> str:
    digest = lookup.text(evidence.manifest, "source", "config_sha256") or lookup.text(
        evidence.plan, "source", "config_sha256"
    )
    bos = lookup.integer(evidence.plan, "calibration", "bos")
    named = {
        "exporter": lookup.text(evidence.manifest, "exporter"),
        "why this exporter": lookup.text(evidence.manifest, "exporter_reason"),
        "dense export": export_proved(evidence.manifest),
        "note": lookup.sentences(evidence.manifest, "notes"),
        "sha256 of the source's config.json": digest,
        "plan digest": lookup.text(evidence.plan, "digest"),
        "calibration text": lookup.text(evidence.plan, "calibration", "name"),
        "sha256 of the calibration text": lookup.text(evidence.plan, "calibration", "sha256"),
        "calibration windows open with the token": None if bos is None else f"{bos} (BOS)",
    }
    lines = [f"{key}: {code(value)}" for key, value in named.items() if value]
    used = lookup.pairs(evidence.manifest, "versions") or lookup.pairs(evidence.plan, "versions")
    if used:
        lines.append(
            "versions: " + ", ".join(f"{plain(key)} {plain(str(value))}" for key, value in sorted(used.items()))
        )
    if manifest:
        lines.append("size and sha256 of every file: `manifest.json`")
    return "## Provenance\n\n" + bullets(lines)
