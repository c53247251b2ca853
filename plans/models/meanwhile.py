"""A model with another weight or another module in the place of its own, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def other_weight(module: Any, turned: Tensor | None) -> Iterator[None]:
    """A Linear, or a table of words, with this matrix [in, out], through which gradients flow; None: as it is."""
    if turned is None:
        yield
        return
    attributes = vars(module)  # where they stand before the module's parameters
    own = dict(attributes)
    attributes["weight"] = turned.T.to(module.weight.device)
    if "padding_idx" in own:
        attributes["padding_idx"] = None  # whose row would have no gradient
    try:
        yield
    finally:
        attributes.clear()
        attributes.update(own)


@contextmanager
def other_module(model: Any, other: tuple[str, nn.Module] | None) -> Iterator[None]:
    """A model with another module at a path; None: as it is."""
    if other is None:
        yield
        return
    path, module = other
    parent, _, name = path.rpartition(".")
    home = model.get_submodule(parent)
    own = getattr(home, name)
    setattr(home, name, module)
    try:
        yield
    finally:
        setattr(home, name, own)
