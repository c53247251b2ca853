"""The torch view of a checkpoint's decoder: blocks in a row, and how to run them.

A `Decoder` never changes. Folding blocks or replacing weights gives a new one that shares every untouched tensor, and a
block is run by calling the model's own module with the tensors of the moment: no copy of a model is ever made. Tensors
keep the dtype the checkpoint stores; a block is widened to float32 for as long as it is run or its weights are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from foldrank.edits.base import BRANCHES, EMBEDDING, HEAD, LAST, Branch
from foldrank.plans.models.block import Block, Pair, widened
from foldrank.plans.models.capture import Arguments, block_arguments, first_input, last_state, logits_of
from foldrank.plans.models.families import FAMILIES, Family
from foldrank.plans.models.loading import load_model
from foldrank.plans.models.meanwhile import other_module, other_weight

if TYPE_CHECKING:
    from foldrank.model.checkpoint import Checkpoint

BATCH_TOKENS = 4096
"""Tokens run through a block at once."""


@dataclass(frozen=True)
class Decoder:
    """A causal language model as a row of blocks between an embedding and a final norm."""

    model: Any
    blocks: tuple[Block, ...]
    family: Family
    _arguments: dict[int, tuple[Arguments, ...]]
    _head: Tensor | None = None
    _table: Tensor | None = None
    _rotation: Tensor | None = None
    _final: tuple[str, nn.Module] | None = None
    factored: Mapping[str, Pair] = field(default_factory=dict)
    """Pairs in the place of the head and the table of words; what runs are their products."""

    @classmethod
    def of(cls, model: Any) -> Decoder:
        """View of a transformers causal language model of a known family."""
        family = FAMILIES[type(model).__name__]
        layers = model.get_submodule(family.layers)
        blocks = tuple(
            Block(number, kind, module, {n: p.detach() for n, p in module.named_parameters()}, family)
            for number, (kind, module) in enumerate(zip(_kinds(model.config, len(layers)), layers, strict=True))
        )
        return cls(model, blocks, family, {})

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return next(self.model.parameters()).device

    @property
    def site_parameters(self) -> int:
        """Numbers in all single-role weights of all blocks: what `keep` is a share of."""
        return sum(block.site_parameters for block in self.blocks)

    @property
    def stored_parameters(self) -> int:
        """The same, with a pair's numbers in the place of its W's, and those of pairs beside; an A that several pairs
        share counts once, and so does a weight that several blocks do."""
        pairs = [(block.number, roles, pair) for block in self.blocks for roles, pair in block.pairs.items()]
        dense = sum(pair.a.shape[0] * pair.b.shape[1] for _, _, pair in pairs)
        pairs += [(block.number, roles, pair) for block in self.blocks for roles, pair in block.beside.items()]
        first = {pair.shared or (number, roles): pair.a.numel() for number, roles, pair in pairs}
        owed = [((role, name), block.weight(role).numel()) for block in self.blocks
                for role, name in block.shared.items()]
        again = sum(size for _, size in owed) - sum(dict(owed).values())
        return self.site_parameters - dense - again + sum(first.values()) + sum(pair.b.numel() for _, _, pair in pairs)

    @property
    def other_parameters(self) -> int:
        """Numbers outside the blocks; a tied embedding counts once, so do one pair in the place of two tables and what
        turns the stream."""
        turning = 0 if self._rotation is None else self._rotation.numel()
        tables = {HEAD: self.model.get_output_embeddings().weight, EMBEDDING: self.model.get_input_embeddings().weight}
        left = {id(table) for part, table in tables.items() if part not in self.factored}
        gone = {id(table): table.numel() for table in tables.values() if id(table) not in left}
        pairs = {id(pair): pair.a.numel() + pair.b.numel() for pair in self.factored.values()}
        around = sum(parameter.numel() for parameter in self.around)
        return turning + around - sum(gone.values()) + sum(pairs.values())

    @property
    def around(self) -> list[nn.Parameter]:
        """The parameters outside the blocks, each once."""
        inside = {id(p) for p in self.model.get_submodule(self.family.layers).parameters()}
        return [p for p in self.model.parameters() if id(p) not in inside]

    @property
    def vocabulary(self) -> int:
        """Words that it knows: columns of its logits."""
        return len(self.model.get_output_embeddings().weight)

    def embed(self, ids_NT: np.ndarray) -> Tensor:
        """Input of the first block [N, T, C]; with its gradient where the table of words has one."""
        learning = torch.is_grad_enabled() and self._table is not None and self._table.requires_grad
        with torch.set_grad_enabled(learning), other_weight(self.model.get_input_embeddings(), self._table):
            found = first_input(self.model, self.family.layers, torch.from_numpy(ids_NT).to(self.device))
        if self._final is not None:
            found = found - found.mean(-1, keepdim=True)
        return self._turned(found)

    def run(self, block: Block, hidden_NTC: Tensor) -> Tensor:
        """Output [N, T, C] of one block, in batches that bound memory."""
        arguments = self._arguments_of(hidden_NTC.shape[1])[block.number]
        size = max(1, BATCH_TOKENS // hidden_NTC.shape[1])
        tensors = {name: tensor.to(hidden_NTC.dtype) for name, tensor in block.tensors.items()}
        parts = [_call(block.module, tensors, part, arguments) for part in hidden_NTC.split(size)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def norm(self, hidden_NTC: Tensor) -> Tensor:
        """The last hidden state after the final norm."""
        with other_module(self.model, self._final):
            return last_state(self.model, self.family.layers, self._turned(hidden_NTC))

    def logits(self, hidden_NTC: Tensor) -> Tensor:
        """Logits [N, T, V] of the last block's output."""
        with other_weight(self.model.get_output_embeddings(), self._head), other_module(self.model, self._final):
            return logits_of(self.model, self.family.layers, self._turned(hidden_NTC))

    @property
    def head(self) -> Tensor:
        """W [in, out] that makes the logits, float32."""
        return widened(self.model.get_output_embeddings().weight.detach().T) if self._head is None else self._head

    def with_head(self, head_IO: Tensor) -> Decoder:
        """The same model with another W [in, out] that makes the logits; an embedding tied to it stays."""
        return replace(self, _head=head_IO)

    @property
    def table(self) -> Tensor:
        """The table of words, [width, words] as a head would hold it, float32."""
        return widened(self.model.get_input_embeddings().weight.detach().T) if self._table is None else self._table

    @property
    def tied(self) -> bool:
        """Whether the head is the table of words, as the model has them."""
        return self.model.get_output_embeddings().weight is self.model.get_input_embeddings().weight

    def with_table(self, table_CV: Tensor) -> Decoder:
        """The same model with another table of words [width, words]; a head tied to it stays."""
        return replace(self, _table=table_CV)

    def with_factored(self, parts: Iterable[str], pair: Pair) -> Decoder:
        """The same model with A [width, rank] B [rank, words] in the place of its head, its table of words, or both."""
        table_CV, factored = pair.a @ pair.b, dict.fromkeys(parts, pair)
        return replace(
            self, factored={**self.factored, **factored}, _head=table_CV if HEAD in factored else self._head,
            _table=table_CV if EMBEDDING in factored else self._table)

    @property
    def rotated(self) -> bool:
        """Whether the stream between embedding and final norm is turned."""
        return self._rotation is not None

    def with_rotation(self, matrix_CC: Tensor) -> Decoder:
        """The same model with its stream multiplied by a matrix, its own inverse, before the first block and behind
        the last."""
        return replace(self, _rotation=matrix_CC)

    @property
    def centred(self) -> bool:
        """Whether the stream has no mean."""
        return self._final is not None

    def with_centring(self, path: str, norm: nn.Module) -> Decoder:
        """The same model, which takes the mean off what enters the first block, with another norm at the path of the
        final one."""
        return replace(self, _final=(path, norm))

    def _turned(self, hidden_NTC: Tensor) -> Tensor:
        """To what the blocks know, or back."""
        return hidden_NTC if self._rotation is None else hidden_NTC @ self._rotation.to(hidden_NTC.dtype)

    def forward(self, ids_NT: np.ndarray) -> Tensor:
        """Output of the last block [N, T, C], before the final norm."""
        hidden = self.embed(ids_NT)
        with torch.no_grad():
            for block in self.blocks:
                hidden = self.run(block, hidden)
        return hidden

    def run_whole(self, block: Block, hidden_NTC: Tensor) -> Tensor:
        """As `run`, all windows in one batch: where a hook must see every token at once."""
        tensors = {name: tensor.to(hidden_NTC.dtype) for name, tensor in block.tensors.items()}
        return _call(block.module, tensors, hidden_NTC, self._arguments_of(hidden_NTC.shape[1])[block.number])

    def block(self, number: int) -> Block:
        """The block of this source number."""
        return next(block for block in self.blocks if block.number == number)

    @property
    def width(self) -> int:
        """Channels of the stream; the table of words may have fewer."""
        block = self.blocks[0]
        return block.weight(next(role for role in LAST.values() if role in block.roles)).shape[1]

    def having(self, branch: Branch) -> tuple[int, ...]:
        """Numbers of the blocks that have the branch."""
        return tuple(block.number for block in self.blocks if set(block.roles) & set(BRANCHES[branch]))

    def with_blocks(self, blocks: Sequence[Block]) -> Decoder:
        """The same model with another row of blocks."""
        return replace(self, blocks=tuple(blocks))

    def with_block(self, block: Block) -> Decoder:
        """The same model with this block in the place of the one of its number."""
        return self.with_blocks([block if other.number == block.number else other for other in self.blocks])

    def _arguments_of(self, window: int) -> tuple[Arguments, ...]:
        """What the model's own forward hands each source block for windows of this length: mask, rotary, positions."""
        if window not in self._arguments:
            self._arguments[window] = block_arguments(self.model, self.family.layers, window)
        return self._arguments[window]


def _kinds(config: Any, count: int) -> list[str]:
    """What tells blocks of one model apart: the attention's reach, and whether positions are rotated."""
    reach = getattr(config, "layer_types", None) or ["full_attention"] * count
    rotated = getattr(config, "no_rope_layers", None) or [1] * count  # 1 where they are, despite the name
    return [kind if turned else f"{kind} without rotary positions" for kind, turned in zip(reach, rotated, strict=True)]


def load_decoder(checkpoint: Checkpoint, *, device: str = "cpu") -> Decoder:
    """Load a checkpoint for planning, from its folder and its safetensors alone. Raises SourceError.

    The blocks stay in the dtype they are stored in; what is around them is float32, so that all computing is.
    """
    decoder = Decoder.of(load_model(checkpoint, dtype=None, device=device))
    for parameter in decoder.around:
        parameter.data = widened(parameter.data)
    return decoder


def _call(module: nn.Module, tensors: dict[str, Tensor], hidden: Tensor, arguments: Arguments) -> Tensor:
    output = functional_call(module, tensors, (hidden, *arguments.positional), arguments.named)
    return output[0] if isinstance(output, tuple) else output
