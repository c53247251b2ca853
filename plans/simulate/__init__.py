"""Edits on the planner's view of a model: what a decoder is after them. Each kind has a room of its own here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from foldrank.edits import Edit, room
from foldrank.plans.models.decoder import Decoder


def simulated(edit: Edit, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder after one edit. `arrays`: the plan's, by name, float32."""
    after: Decoder = room("foldrank.plans.simulate", edit.kind).simulated(edit, decoder, arrays)
    return after


def apply_edits(edits: Iterable[Edit], decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder after edits in order."""
    for edit in edits:
        decoder = simulated(edit, decoder, arrays)
    return decoder
