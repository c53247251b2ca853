"""How fast this machine runs a model, to tell beforehand what a plan takes."""

from __future__ import annotations

import time

import numpy as np
import torch

from foldrank.plans.models.decoder import BATCH_TOKENS, Decoder


def seconds_of_a_token(decoder: Decoder, ids_NT: np.ndarray) -> float:
    """Of these windows through all blocks, on average: a block in the middle is run over one batch, after a batch to
    warm up, and counts for those of its size."""
    blocks = decoder.blocks
    block = blocks[len(blocks) // 2]
    batch = ids_NT[: max(1, BATCH_TOKENS // ids_NT.shape[1])]
    with torch.no_grad():
        hidden = decoder.embed(batch)
        decoder.run(block, hidden)
        began_s = time.perf_counter()
        decoder.run(block, hidden)
        spent_s = time.perf_counter() - began_s
    alike = sum(one.parameters for one in blocks) / block.parameters
    return spent_s * alike / batch.size
