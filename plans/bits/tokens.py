"""How much each token counts in a Gram: as much as the block attends to it, RSQ's attention concentration (arXiv
2503.01820, without its rotation).

a_t is the attention that token t gets, summed over heads and over the tokens that look at it. Within a window it is
scaled to r_t between LEAST and 1, then so that its mean is 1, and H = sum r_t x_t x_t^T takes the place of X^T X.
Whatever the family, what is asked of its attention is the function that mixes values. Axes: N windows, H heads, T
tokens, D channels of a head.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Tokens = Literal["uniform", "attention"]
"""Alike, or by the attention that each gets."""

LEAST = 0.02
"""What the least of a window's tokens counts of its most: the authors search 0.005 to 0.1."""


class Attended(Exception):
    """The attention was seen: nothing behind it is run."""


class Watch(TorchFunctionMode):
    """While it is entered, the first attention ends in `Attended`; `received` then is what each token got [N, T]."""

    received: Tensor

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let all else be computed."""
        named = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            self.received = _received(*args, **named)
            raise Attended
        result = func(*args, **named)
        if func is functional.softmax and result.dim() == 4:  # attention written out: probabilities [N, H, T, T]
            self.received = result.sum(dim=(1, 2), dtype=torch.float32)
            raise Attended
        return result


def weights(received_NT: Tensor, least: float = LEAST) -> Tensor:
    """r [N, T] of what each token got, mean 1 in every window."""
    low, high = received_NT.amin(dim=1, keepdim=True), received_NT.amax(dim=1, keepdim=True)
    share = torch.where(high > low, (received_NT - low) / (high - low), torch.ones_like(received_NT))
    found = least + (1 - least) * share
    return found / found.mean(dim=1, keepdim=True)


def _received(query: Tensor, key: Tensor, value_NHTD: Tensor, *more: Any, **named: Any) -> Tensor:
    """Outputs are sums of values, each times the attention that its token gets: hence that is the slope of the outputs'
    sum in any channel of the token's value."""
    with torch.enable_grad():
        given = torch.zeros_like(value_NHTD, requires_grad=True)
        mixed = functional.scaled_dot_product_attention(query.detach(), key.detach(), given, *more, **named)
        (slope,) = torch.autograd.grad(mixed.sum(), given)
    return slope.sum(dim=(1, 3)) / value_NHTD.shape[-1]
