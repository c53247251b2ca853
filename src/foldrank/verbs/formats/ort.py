"""ORT format: one flatbuffer of graph and weights, optimised beforehand, and the operators that a small build needs.

ONNX Runtime writes it itself, by the CPU's rules: nodes that only other providers take stay as they are.
"""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path

from foldrank.bundle.bundle import Bundle, FileEntry
from foldrank.errors import ExportError
from foldrank.graph.safe.load import load_model
from foldrank.progress import SILENT, Progress
from foldrank.runtime.providers.provider import load_onnxruntime
from foldrank.verbs.formats import copied

MOST_BYTES = 2**31 - 1
"""A flatbuffer's offsets are 31 bits."""
_CONFIG = "required_operators.config"


def write(bundle: Bundle, folder: Path, progress: Progress) -> dict[str, FileEntry]:
    """Fill an empty folder. Raises ExportError (beyond 2 GiB, or ONNX Runtime cannot), UnsafeModel,
    ProviderUnavailable."""
    load_model(bundle.model)
    size = sum(entry.bytes for name, entry in bundle.manifest.files.items() if name.startswith("model.onnx"))
    if size > MOST_BYTES:
        raise ExportError(bundle.path, f"has {size:,} bytes of graph and weights, the ORT format holds {MOST_BYTES:,}",
                          "use the bundle itself, or a smaller model")
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        ort.InferenceSession(str(bundle.model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - its errors have no class of their own
        said = " ".join(str(error).split())[:300]
        raise ExportError(bundle.path, f"ONNX Runtime does not write it in ORT format: {said}", "use the bundle itself"
                          ) from None
    _operators(folder / "model.ort", folder / _CONFIG)
    files = {**copied.beside(bundle), "config.json": bundle.manifest.files["config.json"]}
    known = copied.copy(bundle, files, folder, SILENT)
    (folder / "README.md").write_text(_README, encoding="utf-8")
    return known


def _operators(model: Path, config: Path) -> None:
    """ONNX Runtime's own reader of its format lists the operators that a reduced build must have."""
    from onnxruntime.tools.ort_format_model import create_config_from_models

    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        create_config_from_models([model], config, True)
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace(str(model), model.name), encoding="utf-8")


_README = """\
# A model in ORT format

```python
import onnxruntime as ort

session = ort.InferenceSession("model.ort", providers=["CPUExecutionProvider"])
```

Inputs and outputs are the bundle's: `input_ids`, `attention_mask`, `past_key_values.N.key/.value`,
`present.N.key/.value`, `logits`. For a reduced build of ONNX Runtime give its `build.sh`
`--include_ops_by_config required_operators.config --enable_reduced_operator_type_support`. The file is for the
ONNX Runtime that wrote it, and later ones.
"""
