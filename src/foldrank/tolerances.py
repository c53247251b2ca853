"""Every tolerance of the graph proof, with its reason. Quality gates are the user's and do not live here."""

from __future__ import annotations

GRAPH_PROOF_FP32 = 1e-5
"""Largest |logit error| over the largest |logit| of arithmetic in float32: noise is 5e-7 to 8e-6 here; under 1e-4 an
attention scale off by 1 % passed."""

GRAPH_PROOF_MOST = 1e-4
"""What a model that amplifies rounding is allowed at most."""

GRAPH_PROOF_RARE = 1e-3
"""The same where all but a hundredth of the positions are within GRAPH_PROOF_FP32: SmolLM2 in 4 bits to nearest is
1.9e-4 off at one of 10,240 positions, where the middle one is 1.2e-6 off (mean KL 1.5e-10)."""

GRAPH_PROOF_NOISES = 16.0
"""Such a model may be so many times PyTorch's own float32 noise away, at the tokens where it is farthest: a random
Gemma's graph is 2.8e-5 off where PyTorch's float32 is 1.1e-5 off its float64; for others that noise is 2e-6 to 1.1e-5.
SmolLM2 in 4 bits, turned, is 3.2e-5 off at one of 10,240 positions (mean KL 4e-11), and PyTorch's float32 3.8e-6 in
that window."""

GREEDY_TIE = 1e-2
"""Of the largest logit: so near may two tokens be that arithmetic coarser than float32 takes either, read at once or
one by one: 1e-3 in fp16."""

INT8 = "int8"
"""The precision of a graph that rounds activations to that."""

GRAPH_PROOF_KL_NATS = {"fp16": 1e-4, "bf16": 64e-4, INT8: 0.1}
"""Mean KL(reference || graph) for graphs whose own arithmetic is coarser than float32: it tells that their kernels
work, and no more, for which they are proved in float32 as well. bf16 rounds eight times as coarsely as fp16 and KL goes
with the square: PyTorch itself is off by 2e-6 to 6e-6 nats in fp16 and by 1e-4 to 4e-4 in bf16 on the models here.
What rounding activations to int8 costs (MatMulNBits at accuracy_level 4) depends on the model, 1e-4 to 0.0063 here, and
counts as quality; a kernel that computes something else costs whole nats."""

EXPORT_PROOF_KL_NATS = {"fp16": 5e-4, "bf16": 64e-4, INT8: 64e-4}
"""The same for a fresh export of two bytes, or one whose few-bit weights meet activations rounded to int8: a random
Gemma's fp16 graph is right and 1.3e-4 away, PyTorch's own fp16 3.1e-4; RoPE without its scaling is 1e-2 or more."""

ROUNDED_WEIGHT = 0.5
"""Largest |rounded - W| / |W| of a weight of few bits that still is the checkpoint's W: 0.05 to 0.2 in 4 bits, 0.5 at
most in 2; that of another model or block is 1.4."""

MIN_POSITIONS = 10_000
"""Positions a graph proof looks at."""

IN_FLOAT32 = 2_048
"""Positions of these that a coarser graph is looked at in float32 as well: a fault is at all of them."""
