"""Prove a fresh dense export before it is believed: what it is made of, its tensors by digest, its logits against
PyTorch, its padding.

Every exporter and every adopted graph goes through it. It runs on the CPU, whatever the bundle is for. What cannot be
run here is said to be not proved; what differs is refused. Axes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from foldrank.digests import WeightDigest
from foldrank.errors import FoldrankError, NotWritable, SourceError
from foldrank.graph.precision import precision_of
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.dequantized import rounded_linears
from foldrank.graph.view.padding import Side, padding_sides
from foldrank.graph.view.stored import stored_weights
from foldrank.installed import missing
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.models.families import FAMILIES
from foldrank.progress import SILENT, Progress
from foldrank.runtime.decoding.decoder import OrtDecoder, Tokens
from foldrank.runtime.proof.compare import Comparison
from foldrank.runtime.proof.graph_proof import Criterion, Reference, beside_padding
from foldrank.runtime.providers.provider import load_onnxruntime, resolve
from foldrank.tolerances import EXPORT_PROOF_KL_NATS, GRAPH_PROOF_FP32
from foldrank.verbs.export_anatomy import misfits
from foldrank.verbs.export_window import Window, window_of
from foldrank.verbs.own_noise import own_limit
from foldrank.verbs.reference import dense_model
from foldrank.verbs.rounded import rounded_reference
from foldrank.verbs.torch_logits import logits_of

EXPORT_PROOF = "export proof"
"""The stage that it is."""

_OTHER = {"genai": "--exporter transformers"}
_DECODED = 4
_SIDES: tuple[Side, ...] = ("left", "right")
_ROW = 128

Stored = tuple[list[str], dict[str, str]]


class ExportProof:
    """Called with an exporter's name and the folder it filled: returns, or raises NotWritable. The PyTorch model is
    loaded once for all folders; `close` lets it go."""

    def __init__(
        self, checkpoint: Checkpoint, *, dtype: str, trust_remote_code: bool = False, progress: Progress = SILENT
    ) -> None:
        self.found: dict[str, Any] = {}
        """What goes into the manifest about the folder called with last."""
        self.weights: Stored | None = None
        """What `stored_weights` says of it."""
        self.padding: list[Side] | None = None
        """On which sides its rows may be padded: what it claims, and was proved where a proof could run."""
        self._checkpoint, self._dtype, self._trust, self._progress = checkpoint, dtype, trust_remote_code, progress
        self._model: Any = None

    def __call__(self, exporter: str, folder: Path) -> None:
        """Prove the model.onnx of a folder. Raises NotWritable: what differs, by how much, which exporter to take."""
        model, remedy = load_model(folder / "model.onnx"), _remedy(exporter)
        if odd := misfits(model, self._checkpoint):
            what = f"the graph of {exporter} is not made of what the checkpoint is: {'; '.join(odd[:3])}"
            raise NotWritable(self._checkpoint.path, what, remedy)
        self.weights = stored_weights(folder / "model.onnx")
        claimed = padding_sides(load_model(folder / "model.onnx"))
        self.padding = None if claimed is None else list(claimed)
        self._progress.start(EXPORT_PROOF, 1)
        try:
            self.found = self._prove(exporter, folder, remedy)
        finally:
            self._progress.finish(EXPORT_PROOF)

    def close(self) -> None:
        """Free the PyTorch model."""
        self._model = None

    def _prove(self, exporter: str, folder: Path, remedy: str) -> dict[str, Any]:
        if why := _cannot(self._checkpoint, self._dtype):
            return {"passed": None, "reason": why}
        if self._model is None:
            try:
                self._model = dense_model(self._checkpoint, trust_remote_code=self._trust)
            except SourceError as error:
                if self._checkpoint.architecture in FAMILIES:
                    raise
                return {"passed": None, "reason": error.what}
        checked = self._digests(remedy)
        graph = load_model(folder / "model.onnx")
        window, precision, extra = window_of(self._checkpoint), precision_of(graph), dict[str, Any]()
        if linears := rounded_linears(graph):
            if self._checkpoint.architecture not in FAMILIES:
                return {"passed": None, "reason": "its weights have few bits, and this family is not read"}
            model, self._model = self._model, None
            extra = rounded_reference(self._checkpoint, model, linears, window)
        else:
            model = self._model
        try:
            found, self.padding = _logits(folder, model, window, precision, self.padding)
            return {"passed": True, "tensors": checked, **found, **extra}
        except _Differs as error:
            raise NotWritable(self._checkpoint.path, f"the graph of {exporter} {error}", remedy) from None
        except _run_faults() as error:
            line = error.what if isinstance(error, FoldrankError) else " ".join(str(error).split())[:300]
            what = f"the graph of {exporter} does not run in ONNX Runtime: {line}"
            raise NotWritable(self._checkpoint.path, what, remedy) from None

    def _digests(self, remedy: str) -> int:
        """How many weights of the first and last block the graph holds as the checkpoint does."""
        held = {} if self.weights is None else self.weights[1]
        wanted = _weights(self._checkpoint, self._model) if held else {}
        both = [site for site in wanted if site in held]
        if wrong := [site for site in both if held[site] != getattr(WeightDigest.of(wanted[site]), self._dtype)]:
            what = f"the graph holds other weights than the checkpoint at {', '.join(wrong[:5])}"
            raise NotWritable(self._checkpoint.path, what, remedy)
        return len(both)


class _Differs(Exception):
    """What of a graph is not the model's."""


def _remedy(exporter: str) -> str:
    """What to do where its graph is refused."""
    return _OTHER.get(exporter, "--exporter genai, or transformers where this is another's graph")


def _cannot(checkpoint: Checkpoint, dtype: str) -> str | None:
    """Why no proof can run here, or None."""
    if dtype == "bf16":
        return "ONNX Runtime has no bfloat16 kernels for the CPU"
    if lacking := missing(("torch", "transformers")):
        return f"{' and '.join(lacking)} not installed"
    needed = 8 * sum(tensor.size for tensor in checkpoint.tensors.values())
    if needed > psutil.virtual_memory().available:
        return f"model and graph side by side need {needed / 2**30:.0f} GiB of memory"
    return None


def _run_faults() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises where a kernel refuses its input."""
    state = load_onnxruntime().capi.onnxruntime_pybind11_state
    return (FoldrankError, state.Fail, state.InvalidArgument, state.RuntimeException, state.NotImplemented,
            state.InvalidGraph, RuntimeError)


def _weights(checkpoint: Checkpoint, model: Any) -> Mapping[str, Any]:
    from foldrank.plans.reference import block_weights

    return block_weights(model) if checkpoint.architecture in FAMILIES else {}


def _logits(
    folder: Path, model: Any, window: Window, precision: str, claimed: list[Side] | None
) -> tuple[dict[str, Any], list[Side] | None]:
    """The manifest's figures, and where rows may be padded: where the graph says so, and where else that was found
    true. Raises _Differs with the first question that the graph fails."""
    decoder = OrtDecoder.open(folder, resolve("cpu"), spinning="in_runs")
    reference = logits_of(model)
    random = np.random.default_rng(0)
    vocabulary = min(window.vocabulary, decoder.prefill(np.ones((1, 1), np.int64)).shape[-1])
    short_BT, long_BT = (random.integers(0, vocabulary, shape) for shape in ((2, window.short), (1, window.long)))
    rows_BT = random.integers(0, vocabulary, (2, min(window.long, window.scaled_from or _ROW, _ROW)))
    criterion = Criterion(precision)
    limit = EXPORT_PROOF_KL_NATS.get(precision, GRAPH_PROOF_FP32)
    checks = {f"against PyTorch on {window.short} tokens": _compared(decoder, reference, short_BT)}
    if window.long > window.short:
        checks[f"against PyTorch on {window.long} tokens"] = _compared(decoder, reference, long_BT)
    checks["decoding with its cache"] = _cached(decoder, short_BT)
    checks |= {f"beside padding on the {side}": beside_padding(decoder, rows_BT, side) for side in claimed or ()}
    if not criterion.coarse:
        limit = own_limit(list(checks.values()), limit, model)
    for name, found in checks.items():
        value = criterion.value(found)
        if not value <= limit:
            raise _Differs(f"is not the checkpoint's model {name}: {_measure(criterion)} {value:.1e}, limit {limit:g}")
    return {
        "measure": _measure(criterion), "limit": limit, "value": max(map(criterion.value, checks.values())),
        "positions": sum(found.positions for found in checks.values()), "tokens": window.long,
        "scaled_from": window.scaled_from,
    }, [side for side in (() if claimed == [] else _SIDES)
        if side in (claimed or ()) or _takes(decoder, rows_BT, side, criterion, limit)]


def _takes(decoder: OrtDecoder, rows_BT: Tokens, side: Side, criterion: Criterion, limit: float) -> bool:
    """Whether rows can be padded on a side of which the graph says nothing."""
    try:
        return criterion.value(beside_padding(decoder, rows_BT, side)) <= limit
    except _run_faults():
        return False


def _measure(criterion: Criterion) -> str:
    return "kl_nats" if criterion.coarse else "max_relative_error"


def _compared(decoder: OrtDecoder, reference: Reference, ids_BT: Tokens) -> Comparison:
    found = Comparison(str(decoder.session.model))
    found.add(reference(ids_BT), decoder.prefill(ids_BT), ids_BT)
    return found


def _cached(decoder: OrtDecoder, ids_BT: Tokens) -> Comparison:
    """The last tokens one at a time against all at once."""
    start = max(1, ids_BT.shape[1] - _DECODED)
    whole_BTV = decoder.prefill(ids_BT)
    found = Comparison(f"{decoder.session.model} with its cache")
    decoder.prefill(ids_BT[:, :start])
    for at in range(start, ids_BT.shape[1]):
        found.add(whole_BTV[:, at : at + 1], decoder.step(ids_BT[:, at : at + 1]), ids_BT)
    return found
