"""FIFOs, devices and links in the place of a plan's files: refused at once, neither waited for nor read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from synthetic import PlanMaker, Shape, random_decoder

from foldrank.errors import PlanFormatError
from foldrank.planfile.plan import Plan

pytestmark = pytest.mark.timeout(60)


def _odd(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.parent.parent / "secret.json")


@pytest.mark.parametrize("name", ["plan.json", "factors.safetensors", "diagnostics.json"])
@pytest.mark.parametrize("kind", ["fifo", "device", "link"])
def test_of_a_plan(kind: str, name: str, tmp_path: Path) -> None:
    (folder := tmp_path / "plan").mkdir()
    (tmp_path / "secret.json").write_text("{}")
    PlanMaker(random_decoder(Shape()), "0" * 64).low_rank("block.01.q", 3).plan().write(folder)
    _odd(folder / name, kind)
    with pytest.raises(PlanFormatError, match=name):
        Plan.read(folder)
