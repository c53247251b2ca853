"""Numbers that are made anew are rounded as the plan's own were."""

from __future__ import annotations

from foldrank.planfile.document import Keep, Step
from foldrank.plans.bits.again import rounding_of
from foldrank.plans.bits.walk import Rounding


def test_the_last_quantize_says_how() -> None:
    steps = [Step("quantize", {"bits": 4, "toward": 1.0, "inputs": "original", "head": True}, Keep(None, 1.0)),
             Step("recover", {"kind": "lora"}, Keep(None, 1.0))]
    found = rounding_of(steps)
    assert (found.toward, found.sequential) == (1.0, False)
    assert rounding_of(steps[1:]) == Rounding()
