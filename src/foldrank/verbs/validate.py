"""validate: graph proof against the checkpoint with the plan applied in PyTorch, quality against the dense bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from foldrank.bundle.bundle import PACKAGED, Bundle, source_differs
from foldrank.bundle.genai_settings import NAME
from foldrank.errors import BundleError, SourceError
from foldrank.graph.safe.load import load_model
from foldrank.model.checkpoint import Checkpoint
from foldrank.model.facts import context_length, vocabulary
from foldrank.model.places import place_of
from foldrank.plans.texts import load_tokenizer
from foldrank.progress import SILENT, Progress
from foldrank.reports.limits import QualityLimits
from foldrank.reports.tasks import Sample
from foldrank.reports.validate import FORM, NOT_RUN, GraphProof, HeldOut, Validation
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.proof import quality, validation
from foldrank.runtime.proof.graph_proof import Tokens, prove
from foldrank.runtime.proof.greedy import greedy, offered
from foldrank.runtime.proof.ways import ways_of
from foldrank.runtime.providers.fallback import provider_for
from foldrank.runtime.providers.provider import Provider
from foldrank.verbs.agreement import refuse_disagreement, refuse_other_files
from foldrank.verbs.proving_windows import full_context, proving
from foldrank.verbs.reading import held_out
from foldrank.verbs.reference import Known, reference_of
from foldrank.verbs.safely import refuse_unsafe
from foldrank.verbs.tasks import check_tasks, measure
from foldrank.versions import versions

_SAMPLES = 3
PROOF = "proof"
"""The stage that all of the graph proof is."""


def validate(
    bundle: str | Path | Bundle, *, reference: str | Path | Bundle, model: str | Path | None = None,
    text: str | Path | None = None, provider: str = "cpu", provider_options: Mapping[str, str] | None = None,
    allow_fallback: bool = False,
    max_perplexity_increase: str | float | None = None, min_top1_agreement: float | None = None, seed: int = 0,
    proof: bool = True, tokens: int = 20_480, bos: str = "auto", threads: int | None = None, offline: bool = False,
    trust_remote_code: bool = False, known: Known | None = None, tasks: bool = False,
    limits: QualityLimits | None = None, progress: Progress = SILENT,
) -> dict[str, Any]:
    """Prove the graph, measure quality on `tokens` tokens of held-out text, write reports/validate.json, return it.

    `reference`: the dense bundle. `model`: the checkpoint, by default where the bundle says it came from. `known`: what
    `reference_of` gave, where the caller has built it already; then no checkpoint is opened. `tasks`: run those of
    `verbs/tasks.py` on both, through lm-eval. `limits`: further gates. A failed gate is in the
    result (`verdict`), not raised. Raises SourceError, BundleError, PlanMismatch, ProviderUnavailable,
    ValidationFailed (NaN in the logits).
    """
    limit = validation.share(max_perplexity_increase)
    if limits is not None and limits.max_task_drop is not None and not tasks:
        raise ValueError("a gate on tasks needs tasks: give --tasks too")
    if tasks:
        check_tasks()
    small = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    dense = reference if isinstance(reference, Bundle) else Bundle.open(reference)
    _check_pair(small, dense)
    refuse_unsafe(dense)
    refuse_disagreement(small, load_model(small.model))
    trust = {"offline": offline, "trust_remote_code": trust_remote_code}
    windows = held_out(small.path, small.json("config.json"), text, tokens=tokens, seed=seed, bos=bos)
    engine = provider_for(provider, provider_options, allow_fallback=allow_fallback)
    if proof and known is None:
        known = reference_of(small, _checkpoint(small, model, **trust), dense)
    if proof and known is not None and known.checkpoint is not None:
        refuse_other_files(small, known.checkpoint)
    ids_NT = windows.ids
    decoder = _decoder(small, engine, threads)
    graph = NOT_RUN
    if proof and known is not None:
        progress.start(PROOF, None)
        try:
            graph = proof_of(small, known, decoder, ids_NT, seed=seed, progress=progress)
        finally:
            progress.finish(PROOF)
        if not graph.passed:
            graph = replace(graph, fault=fault_of(small, dense, known, ids_NT, engine=engine, threads=threads))
    before = _decoder(dense, engine, threads)
    cost, greedy = quality.measure(before, decoder, ids_NT, progress, opening=windows.opening)
    done = measure(small, dense, windows.text, (before, decoder), seed=seed, provider=engine.short,
                   progress=progress) if tasks else None
    gates = validation.gates(graph, cost, max_perplexity_increase=limit, min_top1_agreement=min_top1_agreement)
    report = Validation(
        graph=graph, quality=cost, samples=_read(greedy, small), gates=gates, verdict=validation.verdict(gates),
        seed=seed, provider=engine.short, instead_of=engine.instead_of, threads=decoder.session.threads,
        text=HeldOut(name=windows.text.name, sha256=windows.text.sha256, bos=windows.opening.bos),
        versions=versions(), placement=decoder.session.placement, tasks=done,
    )
    if limits is not None:
        gates = [*gates, *limits.gates(report, small)]
        report = replace(report, gates=gates, verdict=validation.verdict(gates))
    small.with_files({FORM.file: FORM.data(report)})
    return FORM.document(report)


def _read(greedy: quality.Greedy, bundle: Bundle) -> list[Sample]:
    """What both wrote after the first prompts, in the tokenizer's words."""
    tokenizer: Any = load_tokenizer(bundle.path)
    written = zip(greedy.prompts[:_SAMPLES], greedy.dense, greedy.small, strict=False)
    return [Sample(prompt=tokenizer.decode(prompt.tolist()), dense=tokenizer.decode(first.tolist()),
                   bundle=tokenizer.decode(second.tolist())) for prompt, first, second in written]


def fault_of(
    small: Bundle, dense: Bundle, known: Known, ids_NT: Tokens, *, engine: Provider, threads: int | None = None
) -> str | None:
    """Who is at fault where the graph proof of `small` failed: "export" where the dense graph fails its own proof on
    two windows, else "plan" (its passes); None where `known` names no checkpoint to tell by."""
    if small.plan is None:
        return "export"
    if known.checkpoint is None:
        return None
    sound = reference_of(dense, known.checkpoint)
    ways = ways_of(_decoder(dense, engine, threads), sound.precision)
    ids = proving(ids_NT, int(ids_NT.max()) + 1, 0)[:2]
    found = prove(ways.decoder, sound.logits, ids, described=sound.described, precision=ways.precision,
                  beside=ways.beside, sides=_sides(dense),
                  allowed=sound.allowed)
    kept = sound.weights is None or sound.weights.passed
    return "plan" if found.passed and kept else "export"


def _check_pair(small: Bundle, dense: Bundle) -> None:
    """Both come from one checkpoint and read text alike, and neither has lost its plan. Raises BundleError."""
    for bundle in (small, dense):
        if bundle.manifest.command == PACKAGED:
            what = "its plan was left out when it was packaged, so nothing says what its graph should compute"
            raise BundleError(bundle.path, what, "validate the bundle that it was made of; `foldrank selftest` tells "
                              "whether it computes what that one did")
    if different := source_differs(small.manifest.source, dense.manifest.source):
        what = f"was not exported from the checkpoint of {small.path.name} ({different})"
        raise BundleError(dense.path, what, "give the dense bundle that the plan was applied to")
    name = "tokenizer.json"
    if small.manifest.files.get(name) != dense.manifest.files.get(name):
        raise BundleError(dense.path, f"its {name} is not that of {small.path.name}", "export and apply again")


def _checkpoint(bundle: Bundle, model: str | Path | None, **trust: Any) -> Checkpoint:
    """The checkpoint given, or where this machine exported it from; it must have the digests of the manifest."""
    way_out = "give it with --model, or leave the graph proof out with --no-proof"
    source = bundle.manifest.source
    place = model if model is not None else place_of(source)
    if place is None:
        what = f"where its checkpoint {source.get('name')} lies is not known here: bundles do not say, and this user's "
        raise SourceError(bundle.path, f"{what}cache does not, or names a folder that is gone", way_out)
    checkpoint = Checkpoint.open(place, **trust)
    if different := source_differs(source, checkpoint.source()):
        what = f"is not the checkpoint {bundle.path.name} was made from ({different})"
        raise SourceError(checkpoint.path, what, way_out)
    return checkpoint


def _decoder(bundle: Bundle, engine: Provider, threads: int | None) -> OrtDecoder:
    """Threads spin within a run only: several sessions and PyTorch share the cores here."""
    return OrtDecoder.open(bundle.path, engine, threads=threads, spinning="in_runs")


def proof_of(
    bundle: Bundle, known: Known, decoder: OrtDecoder, ids_NT: Tokens, *, seed: int, progress: Progress = SILENT
) -> GraphProof:
    """Of the bundle as `decoder` opened it, and of its graph in float32 where its own arithmetic is coarser. `ids_NT`:
    windows of text; random tokens are added."""
    config = bundle.json("config.json")
    words = vocabulary(config) or int(ids_NT.max()) + 1
    ids, ways = proving(ids_NT, words, seed), ways_of(decoder, known.precision)
    weights = sum(tensor.size for tensor in known.checkpoint.tensors.values()) if known.checkpoint else 0
    long_1T = full_context(context_length(config), words, weights, ids.shape[1], seed)
    found = prove(
        ways.decoder, known.logits, ids, described=known.described + ways.described, precision=ways.precision,
        beside=ways.beside, long_1T=long_1T, sides=_sides(bundle), allowed=known.allowed, progress=progress)
    settings = bundle.json(NAME)
    if isinstance(settings, dict) and offered(decoder):
        ends = settings["model"].get("eos_token_id")
        by_genai = greedy(decoder, ids[0], ends if isinstance(ends, list) else [] if ends is None else [ends],
                          coarse=ways.beside is not None)
        found = replace(found, checks=[*(found.checks or []), by_genai], passed=found.passed and by_genai.passed)
    held = all(kept is None or kept.passed for kept in (known.kept, known.planned, known.weights))
    return replace(found, few_bits_kept=known.kept, numbers_planned=known.planned, weights_kept=known.weights,
                   passed=bool(found.passed) and held)


def _sides(bundle: Bundle) -> list[Literal["left", "right"]]:
    """Where the bundle lets rows be padded; one that does not tell, as older ones did not, on the right."""
    return ["right"] if bundle.manifest.padding is None else bundle.manifest.padding
