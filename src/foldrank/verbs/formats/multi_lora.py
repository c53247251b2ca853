"""Multi-LoRA of onnxruntime-genai: one graph whose adapters are exchanged while it runs, each a file of its own.

In the bundle's graph the pairs that `adapter` put beside the sites become inputs with a default, which is a pair of
zeros: the base. `adapter.onnx_adapter` holds the bundle's own pairs by the names of those inputs; A has as many columns
as B has rows, and another adapter may have more or fewer. So the files of bundles whose adapters change the same sites
run on either's graph.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from foldrank.bundle.bundle import Bundle, FileEntry
from foldrank.edits.base import BesideEdit, adapter_factors
from foldrank.errors import BundleError, ExportError
from foldrank.graph.linear.marks import BESIDE, PART, sites_of
from foldrank.graph.linear.weights import read
from foldrank.graph.safe.load import load_model
from foldrank.passes.write import write_model
from foldrank.planfile.plan import Plan
from foldrank.progress import Progress
from foldrank.runtime.providers.provider import load_onnxruntime
from foldrank.sites import Site
from foldrank.verbs.formats import copied

ADAPTER = "adapter.onnx_adapter"
_A, _B = f"{BESIDE}.A", f"{BESIDE}.B"


def write(bundle: Bundle, folder: Path, progress: Progress) -> dict[str, FileEntry]:
    """Fill an empty folder. Raises BundleError (no adapter stands beside its weights), ExportError (bf16, which numpy
    cannot hand over), UnsafeModel, ProviderUnavailable."""
    if bundle.manifest.dtype == "bf16":
        raise ExportError(bundle.path, "its weights are bf16, which is not written as an adapter",
                          "export with --dtype fp16 or fp32")
    model = load_model(bundle.model)
    found = _halves(model.graph, _adapted(bundle))
    if not found:
        raise BundleError(bundle.path, "has no adapter beside its weights",
                          "compress with --method adapter:path=DIR; what merge put into the weights stays there")
    pairs = {str(value.name): np.array(read(value.const_value)) for value in found if value.const_value is not None}
    for value in found:
        _opened(model.graph, value)
    known = write_model(model, folder, progress)
    _write_adapter(pairs, folder / ADAPTER)
    names = ("config.json", "genai_config.json")
    files = {name: entry for name, entry in bundle.manifest.files.items() if name in names}
    known |= copied.copy(bundle, {**files, **copied.beside(bundle)}, folder, progress)
    (folder / "README.md").write_text(_README, encoding="utf-8")
    return known


def _adapted(bundle: Bundle) -> frozenset[Site]:
    """The single-role sites that have an adapter's pair: pairs that make up for rounding are the base's own."""
    edits = Plan.read(bundle.plan).edits if bundle.plan is not None else ()
    beside = [edit for edit in edits if isinstance(edit, BesideEdit) and edit.factors == adapter_factors(edit.site)]
    return frozenset(part for edit in beside for part in edit.site.parts)


def _halves(graph: ir.Graph, sites: frozenset[Site]) -> list[ir.Value]:
    """The initializers of the pairs beside these, each once, in the graph order. What x A gives has no fixed width any
    more."""
    found: dict[str, ir.Value] = {}
    for node in graph:
        part = node.metadata_props.get(PART)
        if part not in (_A, _B) or not sites.issuperset(sites_of(node)):
            continue
        half, given = node.inputs[1], node.outputs[0]
        assert half is not None
        found[str(half.name)] = half
        if part == _A and given.shape is not None:
            given.shape = ir.Shape([*given.shape.dims[:-1], _rank(half)])
    return list(found.values())


def _rank(half: ir.Value) -> str:
    """One name for each pair: ONNX Runtime lays out memory by what has equal names."""
    return f"{str(half.name).rpartition(f'.{BESIDE}.')[0]}.rank"


def _opened(graph: ir.Graph, half: ir.Value) -> None:
    """An input with zeros of rank 1 for its default; any rank may be given."""
    tensor = half.const_value
    assert tensor is not None
    rows, columns = tensor.shape.numpy()
    first = f".{_A}" in str(half.name)
    dims: list[int | str] = [rows, _rank(half)] if first else [_rank(half), columns]
    zeros = np.zeros((rows, 1) if first else (1, columns), tensor.dtype.numpy())
    half.const_value, half.shape = ir.tensor(zeros, name=half.name), ir.Shape(dims)
    graph.inputs.append(half)


def _write_adapter(pairs: dict[str, np.ndarray], path: Path) -> None:
    ort = load_onnxruntime()
    file = ort.AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(1)
    file.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in pairs.items()})
    file.export_adapter(str(path))


_README = """\
# Adapters that are exchanged while the model runs

```python
import onnxruntime_genai as og

model = og.Model(".")
adapters = og.Adapters(model)
adapters.load("adapter.onnx_adapter", "mine")

tokenizer, parameters = og.Tokenizer(model), og.GeneratorParams(model)
parameters.set_search_options(max_length=64)
generator = og.Generator(model, parameters)
generator.set_active_adapter(adapters, "mine")      # without it: the base
generator.append_tokens(tokenizer.encode("The pump"))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))
```

The adapter of another bundle fits this graph where it changes the same sites of the same base, whatever its rank.
"""
