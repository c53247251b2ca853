"""apply, inspect, verify and sbom work where torch, transformers and the runtimes are not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from synthetic import PlanMaker, Shape, random_decoder, write_bundle

_PROGRAM = """
import sys
for name in ("torch transformers onnxruntime onnxruntime_genai matplotlib jinja2 scipy onnxscript optimum "
             "model_signing cryptography").split():
    sys.modules[name] = None
import foldrank
foldrank.apply(sys.argv[1], sys.argv[2], sys.argv[3])
for path in (sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[3] + "/model.onnx", sys.argv[4]):
    print(foldrank.inspect(path)["kind"])
for path in sys.argv[1:4]:
    print(foldrank.verify(path)["kind"])
print(foldrank.sbom(sys.argv[3], sys.argv[3] + ".json")["components"] > 0)
"""


def test_they_need_no_torch_and_no_runtime(tmp_path: Path, specs_5m: Path) -> None:
    decoder = random_decoder(Shape())
    dense = write_bundle(decoder, tmp_path / "dense")
    made = PlanMaker(decoder, dense.manifest.source["config_sha256"])
    made.fold((1, 2), {1: 0.5, 2: 0.5}).low_rank("block.03.q", 5)
    (tmp_path / "plan").mkdir()
    made.plan().write(tmp_path / "plan")
    paths = [tmp_path / "dense", tmp_path / "plan", tmp_path / "small", specs_5m]
    done = subprocess.run([sys.executable, "-c", _PROGRAM, *map(str, paths)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["bundle", "plan", "bundle", "onnx", "checkpoint", "bundle", "plan", "bundle", "True"]
