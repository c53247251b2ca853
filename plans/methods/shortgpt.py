"""ShortGPT (arXiv 2403.03853): drop the blocks that turn their input least.

Block influence is 1 - E[cos(x, block(x))] over the tokens of the calibration text, measured once on the whole model.
"""

from __future__ import annotations

from foldrank.edits.base import Phase
from foldrank.plans.depth.dropping import Depth, Text, least, without
from foldrank.plans.depth.similarity import turned
from foldrank.plans.method import Method, Result, Task


def influences(text: Text) -> dict[int, float]:
    """Block influence by block number, for all but block 0. Cost: one forward pass."""
    steps = list(zip(text.decoder.blocks, text.states[:-1], text.states[1:], strict=True))[1:]
    return {block.number: turned(below, above) for block, below, above in steps}


def run(task: Task, settings: Depth) -> Result:
    """Drop them. Raises ValueError where no block would be left."""
    scores = influences(Text.through(task.decoder, settings.ids(task)))
    return without(
        task, least(scores, len(task.decoder.blocks) - settings.left(task)), {str(b): s for b, s in scores.items()}
    )


METHOD = Method("shortgpt", Depth, run, phase=Phase.BLOCKS)
