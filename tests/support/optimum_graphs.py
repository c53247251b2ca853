"""Graphs that optimum-onnx 0.1.0 itself wrote, with the weights of a checkpoint made here: six families.

tests/data/optimum/<family> holds the config and the graph without its weights: in the place of each, the initializer's
doc_string names the checkpoint's tensor and, behind a blank, the form it is in (FORMS).

    python tests/support/optimum_graphs.py [FAMILY …]    # record them anew, with the interpreter of `make optimum-env`

Knows nothing of foldrank but its byte tokenizer.
"""

from __future__ import annotations

import gzip
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import load_file

from foldrank.benchmarks.random_checkpoint import write_tokenizer

RECORDED = Path(__file__).resolve().parents[1] / "data" / "optimum"
FAMILIES = tuple(sorted(path.name for path in RECORDED.iterdir()))
GRAPH = "model.onnx.gz"
FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as-it-is": lambda tensor: tensor, "transposed": lambda tensor: np.ascontiguousarray(tensor.T),
    "plus-one": lambda tensor: tensor + 1,
}
"""What the exporter makes of a tensor: of a Linear's weight, and of the gain of a Gemma norm."""


def checkpoint(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write the family's checkpoint, random, norms and biases too, beside its config as transformers 4 wrote it.

    Two families share no tensor, though their first ones have one shape.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(len(FAMILIES) * seed + FAMILIES.index(family))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(RECORDED / family))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    shutil.copyfile(RECORDED / family / "config.json", folder / "config.json")
    write_tokenizer(folder)
    return folder


def filled(family: str, weights: Path, folder: Path) -> Path:
    """Write what optimum-onnx makes of a checkpoint of that family: the graph, and the files it takes along."""
    shutil.copytree(weights, folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    model = onnx.load_from_string(gzip.decompress((RECORDED / family / GRAPH).read_bytes()))
    tensors = load_file(weights / "model.safetensors")
    for initializer in model.graph.initializer:
        name, _, form = initializer.doc_string.partition(" ")
        if name:
            value = FORMS[form](tensors[name])
            assert list(value.shape) == list(initializer.dims)
            initializer.CopyFrom(numpy_helper.from_array(value, initializer.name))
    onnx.save(model, folder / "model.onnx")
    return folder


def write_all(folder: Path) -> None:
    """Write every family, all or nothing: FAMILY/checkpoint, and FAMILY/optimum with the graph."""
    draft = folder.with_name(f"{folder.name}.draft")
    for family in FAMILIES:
        filled(family, checkpoint(family, draft / family / "checkpoint"), draft / family / "optimum")
    draft.rename(folder)


def emptied(graph: Path, weights: Path) -> onnx.ModelProto:
    """The graph with each weight of the checkpoint taken out, and its name left in its place."""
    model = onnx.load(graph)
    tensors = load_file(weights / "model.safetensors")
    for initializer in model.graph.initializer:
        value = numpy_helper.to_array(initializer)
        for (name, tensor), form in itertools.product(tensors.items(), FORMS):
            if value.ndim and np.array_equal(value, FORMS[form](tensor)):
                initializer.ClearField("raw_data")
                initializer.doc_string = f"{name} {form}"
    return model


def written(python: Path, weights: Path, folder: Path) -> Path:
    """The graph of optimum-onnx in that interpreter."""
    command = [str(python), "-m", "optimum.exporters.onnx", "-m", str(weights), "--task", "text-generation-with-past",
               str(folder)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return folder / "model.onnx"


def main() -> None:
    """Record the families named, or all."""
    from continued import optimum_python

    if (python := optimum_python()) is None:
        sys.exit("no environment with optimum-onnx: make optimum-env")
    for family in sys.argv[1:] or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            weights = checkpoint(family, Path(folder) / "checkpoint")
            graph = emptied(written(python, weights, Path(folder) / "optimum"), weights)
            (RECORDED / family / GRAPH).write_bytes(gzip.compress(graph.SerializeToString(), 9, mtime=0))
            print(family, len(graph.graph.node), "nodes")


if __name__ == "__main__":
    main()
