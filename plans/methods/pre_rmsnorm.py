"""pre_rmsnorm: LayerNorms become RMS norms, which take no mean away. Logits stay as they are.

Pre-RMSNorm and Pre-CRMSNorm Transformers (arXiv 2305.14858): where a LayerNorm stands before each branch, its mean is
the stream's, which nothing else reads. So what is written to the stream is centred once, W (I - 1 1^T / d), and norms
need not look for a mean. The paper centres the embedding too; here the table of words stays as it is, since it may be
the head or be stored in few bits, and the graph takes the mean off what enters the first block. What a norm adds goes
into the biases of what reads it. A norm costs less then, and `rotate` can turn the stream.
"""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as settings_dataclass

from foldrank.edits.base import Phase
from foldrank.edits.pre_rmsnorm import PreRmsnorm
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.simulate import apply_edits


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Settings:
    """None."""


def run(task: Task, settings: Settings) -> Result:
    """Centre the model. Raises SourceError where its norms do not let it be."""
    decoder = task.decoder
    edit = PreRmsnorm(decoder.width, decoder.having("attention"), decoder.having("mlp"))
    return Result(apply_edits([edit], decoder, {}), (edit,), kept=1.0)


METHOD = Method("pre_rmsnorm", Settings, run, phase=Phase.NORMS)
