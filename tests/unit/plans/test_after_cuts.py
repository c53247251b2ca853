"""Methods on a model that lost branches and channels: they edit what is there, and only that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.digests import WeightDigest
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.laws import check_edits
from foldrank.edits.slice_mlp import Channels, SliceMlp
from foldrank.plans.method import Task
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.request import parse
from foldrank.plans.simulate import apply_edits

DIGEST = WeightDigest("0" * 64, "0" * 64, "0" * 64)


@pytest.mark.parametrize("name", ["svd", "fwsvd", "asvd", "svd_llm", "svd_llm_v2", "basis_sharing", "welore", "dipsvd",
                                  "dipsvd:packed=split"])
def test_ranks_are_found_for_what_is_left(make_model: Callable[..., Any], ids: np.ndarray, name: str) -> None:
    source = Decoder.of(make_model(4))
    width, out = source.block(0).weight("down").shape
    cuts = [DropBranch(1, "mlp"), DropBranch(2, "attention"),
            SliceMlp(0, (width, out), Channels(tuple(range(width - 8))), None, None, (DIGEST,) * 3)]
    left = apply_edits(cuts, source, {})
    request = parse(f"{name}{',' if ':' in name else ':'}keep=0.6,align=1")
    result = request.method.run(Task(left, ids, 0, source=source), request.settings)
    check_edits([*cuts, *result.edits], 4)
    shapes = {site: edit.shape for edit in result.edits for site in edit.site.parts}
    assert {site.block for site in shapes} >= {1, 2}, "blocks that lost a branch are edited too"
    assert all(shapes[site] == tuple(left.block(site.block).weight("down").shape)
               for site in shapes if site.role == "down")
    assert result.kept <= 0.6
    assert result.decoder.stored_parameters == pytest.approx(result.kept * left.site_parameters)
    simulated = apply_edits(result.edits, left, result.arrays)
    with torch.no_grad():
        torch.testing.assert_close(simulated.forward(ids), result.decoder.forward(ids), rtol=1e-4, atol=1e-4)
