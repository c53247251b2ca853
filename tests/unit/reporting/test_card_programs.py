"""The programs on a real bundle's card, run as a reader would run them: in the bundle's folder."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from foldrank.reporting.card import model_card

PROMPT = "The purpose of this proposal"


def _programs(bundle: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", model_card(bundle), flags=re.DOTALL)


@pytest.mark.slow
def test_both_programs_run_and_agree(dense_5m: Path) -> None:
    """onnxruntime-genai and plain ONNX Runtime decode greedily, so one text begins with the other."""
    first, _, last = _programs(dense_5m)
    before = sorted(path.name for path in dense_5m.iterdir())
    genai, ort = (
        subprocess.run([sys.executable, "-c", program], cwd=dense_5m, check=True, capture_output=True, text=True).stdout
        for program in (first, last)
    )
    assert len(ort.strip()) > 20
    assert genai.strip().startswith(ort.strip())
    assert sorted(path.name for path in dense_5m.iterdir()) == before
