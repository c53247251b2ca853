"""What RMS norms in the place of LayerNorms are worth on this CPU, one thread, in time of the CPU.

    python benchmarks/campaigns/pre_rmsnorm.py --json benchmarks/results/pre_rmsnorm.json

A random checkpoint of GPT-2 small's shape is exported; a plan without edits and pre_rmsnorm are applied. Both bundles,
and the first again as the null test, take turns in one process, each round in another order; launches open them anew,
in another order too. So do the norms alone: as many as the model has, each followed by a sum. Weights are noise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from foldrank.benchmarks.environment import environment
from foldrank.benchmarks.random_checkpoint import write_tokenizer
from foldrank.benchmarks.statistics import estimate
from foldrank.graph.linear.layer_norms import layer_norm_behind
from foldrank.passes.clean_up import remove_dead
from foldrank.passes.rms_norms import RmsNorms
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.providers.provider import resolve
from foldrank.verbs.apply import apply
from foldrank.verbs.export import export
from foldrank.verbs.plan import plan

NAMES = ("dense", "pre_rmsnorm", "dense again")
BLOCKS, WIDTH = 12, 768
TOKENS = 4
"""Decoded in a sample."""
LAUNCHES, WARM = 4, 2
Session = ort.InferenceSession


def checkpoint(folder: Path) -> Path:
    """GPT-2 small, of 50,257 words. Biases and norms are random too."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=BLOCKS, n_embd=WIDTH))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def norms(*, rms: bool) -> Session:
    """A stream that is normed and added to, once for each norm of the model."""
    rng = np.random.default_rng(0)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, "tokens", WIDTH]))
    nodes, weights, stream = list[ir.Node](), list[ir.Value](), x
    for number in range(2 * BLOCKS + 1):
        own = [ir.tensor(rng.standard_normal(WIDTH).astype(np.float32), name=f"{part}{number}") for part in "gb"]
        weights += (given := [ir.Value(name=t.name, const_value=t, shape=t.shape, type=ir.TensorType(t.dtype))
                              for t in own])
        nodes.append(ir.Node("", "LayerNormalization", [stream, *given], name=f"norm{number}"))
        nodes.append(ir.Node("", "Add", [stream, nodes[-1].outputs[0]], name=f"sum{number}"))
        for node in nodes[-2:]:
            node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = f"{node.name}_y", x.type, x.shape
        stream = nodes[-1].outputs[0]
    graph = ir.Graph([x], [stream], nodes=nodes, initializers=weights, opset_imports={"": 20}, name="norms")
    for node in nodes[::2] if rms else ():
        norm = layer_norm_behind(node.outputs[0])
        assert norm is not None
        RmsNorms(graph, "norms").put(norm)
    remove_dead(graph)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString(), options)


def sampled(things: Mapping[str, Any], work: Callable[[Any], None], rounds: int) -> dict[str, list[float]]:
    """Seconds of the CPU that each takes in each round."""
    found: dict[str, list[float]] = {name: [] for name in things}
    for number in range(rounds + WARM):
        for name in np.random.default_rng(number).permutation(list(things)):
            begun = time.process_time()
            work(things[name])
            if number >= WARM:
                found[name].append(time.process_time() - begun)
    return found


def row(phase: str, tokens: int, launches: Sequence[dict[str, list[float]]], per: int = 1) -> dict[str, Any]:
    """Dense over edited, and dense over dense: medians of the rounds' ratios with their intervals."""
    dense = [np.array(seconds[NAMES[0]]) for seconds in launches]
    found: dict[str, Any] = {"phase": phase, "tokens": tokens, "launches": len(dense), "rounds": len(dense[0]),
                             "dense_ms": 1000 * float(np.median(dense)) / per}
    for told, name in (("ratio", NAMES[1]), ("null", NAMES[2])):
        ratios = [(one / np.array(seconds[name])).tolist() for one, seconds in zip(dense, launches, strict=True)]
        whole = estimate(ratios, 0)
        found |= {told: whole.ratio, f"{told}_ci95": whole.ci95, f"{told}s": ratios}
    return found


def of_norms(rounds: int) -> Iterator[dict[str, Any]]:
    """Rows of the norms alone, each launch with sessions of its own."""
    for tokens, times in ((1, 100), (128, 4)):
        given = {"x": np.random.default_rng(1).standard_normal((1, tokens, WIDTH)).astype(np.float32)}
        launches = [sampled({name: norms(rms=name == NAMES[1]) for name in opened(number)},
                            partial(normed, given=given, times=times), 4 * rounds) for number in range(LAUNCHES)]
        yield row("norms alone", tokens, launches, per=times)


def of_models(bundles: Mapping[str, Path], rounds: int) -> Iterator[dict[str, Any]]:
    """Rows of whole models, likewise."""
    seconds: dict[tuple[str, int], list[dict[str, list[float]]]] = {}
    for number in range(LAUNCHES):
        decoders = {name: OrtDecoder.open(bundles[name], resolve("cpu"), threads=1) for name in opened(number)}
        for prompt in (16, 128):
            ids = np.random.default_rng(0).integers(50_257, size=(1, prompt))
            first = sampled(decoders, partial(read, ids=ids), rounds)
            for decoder in decoders.values():
                decoder.first(ids)
            seconds.setdefault(("prefill", prompt), []).append(first)
            seconds.setdefault(("decode", prompt), []).append(sampled(decoders, decoded, rounds))
    for (phase, prompt), launches in seconds.items():
        yield row(phase, prompt, launches, per=TOKENS if phase == "decode" else 1)


def opened(launch: int) -> list[str]:
    """The order in which sessions are opened: where they lie in memory is worth some per cent."""
    return [str(name) for name in np.random.default_rng(100 + launch).permutation(NAMES)]


def main() -> None:
    """Make, edit, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=8, help="in each launch")
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model = checkpoint(work / "checkpoint")
        dense = export(model, work / "dense", dtype="fp32", offline=True)
        made = plan(model, methods=["pre_rmsnorm"], calibration_tokens=64, offline=True)
        nothing = replace(made, document=replace(made.document, edits=()))
        paths = [apply(dense, one, work / where).path for where, one in (("nothing", nothing), ("small", made))]
        bundles = dict(zip(NAMES, (*paths, paths[0]), strict=True))
        for found in (*of_norms(asked.rounds), *of_models(bundles, asked.rounds)):
            rows.append(found)
            print({key: value for key, value in found.items() if key not in ("ratios", "nulls")}, flush=True)
    document = {"shape": "GPT-2 small, random", "time": "of the CPU", "rows": rows, "environment": environment(1)}
    asked.json.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def normed(session: Session, given: dict[str, np.ndarray], times: int) -> None:
    """So many times."""
    for _ in range(times):
        session.run(None, given)


def read(decoder: OrtDecoder, ids: np.ndarray) -> None:
    """A prompt."""
    decoder.first(ids)


def decoded(decoder: OrtDecoder) -> None:
    """Some tokens more."""
    for _ in range(TOKENS):
        decoder.next()


if __name__ == "__main__":
    main()
