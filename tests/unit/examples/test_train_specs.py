"""The training script trains: a few steps on the CPU lower the loss on the text trained on, and the result loads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from nightly import NIGHTLY

from foldrank.model.checkpoint import Checkpoint, check_finite


@NIGHTLY
@pytest.mark.slow
def test_a_few_steps_fit_their_text_and_leave_a_whole_checkpoint(specs_5m: Path, root: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    words = " ".join(f"token{i % 7} follows token{(i + 1) % 7}," for i in range(150))
    text.write_text(json.dumps({"text": words}) + "\n")
    found = subprocess.run(
        [sys.executable, "examples/train_specs.py", str(specs_5m), "--text", str(text), "--valid", str(text),
         "--tokens", "8K", "--batch", "4", "--window", "64", "--rate", "1e-3", "-o", str(tmp_path / "out")],
        cwd=root, capture_output=True, text=True,
    )
    assert found.returncode == 0, found.stderr
    facts = json.loads((tmp_path / "out" / "README.md").read_text().split("```json")[1].split("```")[0])
    assert facts["perplexity_after"]["128"] < 0.5 * facts["perplexity_before"]["128"]
    assert min(found for _, found in facts["validation_curve"]) < 0.5 * facts["perplexity_before"]["128"]
    trained = Checkpoint.open(tmp_path / "out")
    check_finite(trained)
    assert trained.config_sha256 == Checkpoint.open(specs_5m).config_sha256
    assert trained.blocks == 12
