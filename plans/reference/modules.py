"""Modules that stand in the place of a transformers model's own."""

from __future__ import annotations

import torch
from torch import nn


class Sum(nn.Module):
    """What computes a role, and a pair beside it: both read one input, their results are added."""

    def __init__(self, main: nn.Module, pair: nn.Sequential) -> None:
        super().__init__()
        self.main, self.pair = main, pair

    @property
    def rank(self) -> int:
        """The pair's."""
        first = self.pair[0]
        assert isinstance(first, nn.Linear)
        return first.out_features

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Their sum."""
        found: torch.Tensor = self.main(inputs) + self.pair(inputs)
        return found


class Looked(nn.Module):
    """Rows of a table of words that has too few channels, times a matrix [its channels, channels of the stream]."""

    def __init__(self, table: nn.Module, matrix: nn.Parameter) -> None:
        super().__init__()
        self.table, self.matrix = table, matrix

    @property
    def weight(self) -> nn.Parameter:
        """Of the table alone."""
        found = self.table.weight
        assert isinstance(found, nn.Parameter)
        return found

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors of words."""
        found: torch.Tensor = self.table(ids) @ self.matrix
        return found
