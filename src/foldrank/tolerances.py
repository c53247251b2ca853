"""Every tolerance of the graph proof, with its reason. Quality gates are the user's and do not live here."""

from __future__ import annotations

GRAPH_PROOF_FP32 = 1e-4
"""Largest |logit error| over the largest |logit|: fp32 kernels sum in other orders; a wrong weight is 1e-2 or more."""

GRAPH_PROOF_KL_NATS_FP16 = 1e-4
"""Mean KL(reference || graph) for fp16 and bf16 graphs, whose logits cannot be held to an absolute error."""

MIN_POSITIONS = 10_000
"""Positions a graph proof looks at."""
