"""The bill of materials of a bundle: its files, the checkpoint it came from, what was done to that, and with what."""

from __future__ import annotations

import re
from typing import Any

from foldrank.bundle.bundle import MANIFEST, Bundle
from foldrank.digests import sha256_file
from foldrank.planfile.plan import Plan
from foldrank.reports.validate import FORM
from foldrank.verbs.bom.document import Component, document, library, licence, properties, sha256

BUNDLE, SOURCE = "bundle", "source"
"""Names by which the document refers to them."""


def bundle_bom(bundle: Bundle) -> str:
    """CycloneDX JSON of an open bundle. Raises PlanFormatError, BundleError where plan or report are damaged."""
    manifest, source = bundle.manifest, bundle.manifest.source
    digest = sha256_file(bundle.path / MANIFEST)
    named = {**{name: entry.sha256 for name, entry in manifest.files.items()}, MANIFEST: digest}
    files = [{"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": sha256(named[name])}
             for name in sorted(named)]
    made_with = [library(name, version) for name, version in manifest.versions.items() if name != "python"]
    subject: Component = {
        "type": "machine-learning-model", "bom-ref": BUNDLE, "name": source.get("name", "bundle"),
        "version": digest[:12], "hashes": sha256(digest), **_licences(source),
        "pedigree": {"ancestors": [_ancestor(source)]}, "modelCard": _model_card(bundle),
        "properties": properties({
            "compressed": bundle.plan is not None, "dtype": manifest.dtype, "exporter": manifest.exporter,
            "created": manifest.created, "bytes": sum(entry.bytes for entry in manifest.files.values())}),
    }
    return document(
        subject, files,
        dependencies=[{"ref": BUNDLE, "dependsOn": [file["bom-ref"] for file in files]}],
        formulation=[{"bom-ref": "made", "components": made_with, "properties": properties({
            "command": manifest.command, "seed": manifest.seed, "python": manifest.versions.get("python"),
            **_plan(bundle)})}],
    )


def _ancestor(source: dict[str, str]) -> Component:
    """`weights_sha256` is over the digests of the checkpoint's files of weights, so it is no digest of a file."""
    told = ("config_sha256", "weights_sha256", "architecture", "gguf", "gguf_sha256")
    return {"type": "machine-learning-model", "bom-ref": SOURCE, "name": source.get("name", "checkpoint"),
            **_licences(source), "properties": properties({key: source.get(key) for key in told})}


def _licences(source: dict[str, str]) -> dict[str, Any]:
    """As the checkpoint's card states it. A licence of its own stands under `license_name` with `license: other`."""
    stated, own = source.get("license"), source.get("license_name")
    if own and stated in (None, "other"):
        return {"licenses": [licence(own, _address(source.get("license_link")))]}
    return {"licenses": [licence(name) for name in stated.split(",")]} if stated else {}


def _address(link: str | None) -> str | None:
    """A link may be the name of a file instead."""
    return link if link and re.fullmatch(r"https://[\w.~%/#?=&+:-]{1,256}", link, re.ASCII) else None


def _model_card(bundle: Bundle) -> dict[str, Any]:
    architecture = bundle.manifest.source.get("architecture")
    card: dict[str, Any] = {"modelParameters": {
        "task": "text-generation", **({"modelArchitecture": architecture} if architecture else {})}}
    if (report := FORM.read(bundle)) is not None:
        quality = report.quality
        measured = {"perplexity": quality.perplexity, "perplexity of dense": quality.dense_perplexity,
                    "top-1 agreement with dense": quality.top1_agreement}
        card["quantitativeAnalysis"] = {"performanceMetrics": [
            {"type": name, "value": str(value), "slice": f"{quality.tokens} held-out tokens"}
            for name, value in measured.items() if value is not None]}
    return card


def _plan(bundle: Bundle) -> dict[str, object]:
    if bundle.plan is None:
        return {}
    document = Plan.read(bundle.plan).document
    told: dict[str, object] = {"plan": document.digest}
    for number, step in enumerate(document.steps, 1):
        settings = ",".join(f"{key}={value}" for key, value in sorted(step.settings.items()) if value is not None)
        told[f"plan.step.{number}"] = step.method + (f":{settings}" if settings else "")
        told[f"plan.step.{number}.keep"] = step.keep.reached
    if document.calibration is not None:
        told |= {"calibration": document.calibration.name, "calibration.sha256": document.calibration.sha256}
    return told
