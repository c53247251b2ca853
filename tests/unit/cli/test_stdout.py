"""Standard output holds what foldrank says, and nothing that a library prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def test_what_a_library_prints_goes_to_standard_error() -> None:
    program = ("import os\nfrom foldrank.cli.main import keep_stdout\nprint('before')\nkeep_stdout()\n"
               "os.write(1, b'noise')\nprint('äfter')")
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, encoding="utf-8",
                           env={"PYTHONIOENCODING": "utf-8"})
    assert found.stdout == "before\näfter\n"
    assert found.stderr == "noise"


def test_a_closed_standard_error_or_output_is_no_error() -> None:
    program = "from foldrank.cli.main import keep_stdout\nkeep_stdout()"
    for closed in (">&-", "2>&-"):
        subprocess.run(f"'{sys.executable}' -c '{program}' {closed}", shell=True, check=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_behind_standard_output_is_told_once() -> None:
    program = "from foldrank.cli.main import main\nmain(['--version'])"
    with open("/dev/full", "w") as full:
        found = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True)
    assert found.returncode == 3
    assert found.stderr.startswith("error: standard output: cannot be written: No space left on device")
    assert len(found.stderr.splitlines()) == 1
