"""Every tolerance of the graph proof, with its reason. Quality gates are the user's and do not live here."""

from __future__ import annotations

GRAPH_PROOF_FP32 = 1e-4
"""Largest |logit error| over the largest |logit|: fp32 kernels sum in other orders; a wrong weight is 1e-2 or more."""

EXPORT_PROOF_FP32 = 1e-5
"""The same for a fresh dense export, where no plan excuses anything: noise is 5e-7 to 1.3e-6 here; under 1e-4 an
attention scale off by 1 % passed."""

EXPORT_PROOF_NOISES = 4.0
"""A model that amplifies rounding may be so many times PyTorch's own float32 noise away: a random Gemma's graph is
2.8e-5 off where PyTorch's float32 is 1.1e-5 off its float64; for others that noise is 2e-6 to 1.1e-5."""

INT8 = "int8"
"""The precision of a graph that rounds activations to that."""

GRAPH_PROOF_KL_NATS = {"fp16": 1e-4, "bf16": 64e-4, INT8: 64e-4}
"""Mean KL(reference || graph) for graphs of two bytes, whose logits cannot be held to an absolute error. bf16 rounds
eight times as coarsely and KL goes with the square: PyTorch itself is off by 2e-6 to 6e-6 nats in fp16 and by 1e-4 to
4e-4 in bf16 on the models here; a wrong weight costs 1e-2 or more. int8 is for MatMulNBits that rounds activations
(accuracy_level 4), block by block and as coarsely as bf16: 1e-4 to 8e-4 here, where the same graphs with activations
as they are hold the fp32 limit."""

EXPORT_PROOF_KL_NATS = {"fp16": 5e-4, "bf16": 64e-4, INT8: 64e-4}
"""The same for a fresh export of two bytes, or one whose few-bit weights meet activations rounded to int8: a random
Gemma's fp16 graph is right and 1.3e-4 away, PyTorch's own fp16 3.1e-4; RoPE without its scaling is 1e-2 or more."""

ROUNDED_WEIGHT = 0.5
"""Largest |rounded - W| / |W| of a weight of few bits that still is the checkpoint's W: 0.05 to 0.2 in 4 bits, 0.5 at
most in 2; that of another model or block is 1.4."""

MIN_POSITIONS = 10_000
"""Positions a graph proof looks at."""
