"""The torch view of a checkpoint's decoder: blocks in a row, seven single-role linears in each, and how to run them.

A `Decoder` never changes. Folding blocks or replacing weights gives a new one that shares every untouched tensor, and a
block is run by calling the model's own module with the tensors of the moment: no copy of a model is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from foldrank.digests import combine
from foldrank.edits import FoldBlocks
from foldrank.errors import ProviderUnavailable, SourceError
from foldrank.plans.capture import block_arguments
from foldrank.sites import ROLES

if TYPE_CHECKING:
    from foldrank.checkpoint import Checkpoint

FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
"""Architectures whose blocks are known to be laid out as PATHS says: pre-norm, rotary, gated MLP."""

PATHS = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}
"""Where a block's module keeps each role."""

BATCH_TOKENS = 4096
"""Tokens run through a block at once."""


@dataclass(frozen=True)
class Block:
    """One decoder block as it is now. `tensors` holds every parameter by the module's own names."""

    number: int
    kind: str
    module: nn.Module
    tensors: Mapping[str, Tensor]

    def weight(self, role: str) -> Tensor:
        """W [in, out] of y = x @ W: the one place where PyTorch's [out, in] is turned."""
        return self.tensors[f"{PATHS[role]}.weight"].T

    def linear(self, role: str) -> nn.Module:
        """The module that applies the role, for hooks."""
        return self.module.get_submodule(PATHS[role])

    def with_weights(self, weights: Mapping[str, Tensor]) -> Block:
        """The block with other W [in, out] for some roles; biases stay."""
        turned = {f"{PATHS[role]}.weight": weight.T for role, weight in weights.items()}
        return replace(self, tensors={**self.tensors, **turned})

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter: what blocks must share to be merged."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    @property
    def site_parameters(self) -> int:
        """Numbers in the seven weights."""
        return sum(self.weight(role).numel() for role in ROLES)

    @property
    def parameters(self) -> int:
        """Numbers in all parameters."""
        return sum(tensor.numel() for tensor in self.tensors.values())


@dataclass(frozen=True)
class Decoder:
    """A causal language model as a row of blocks between an embedding and a final norm."""

    model: Any
    blocks: tuple[Block, ...]
    _arguments: dict[int, tuple[dict[str, Any], ...]]

    @classmethod
    def of(cls, model: Any) -> Decoder:
        """View of a transformers causal language model of a known family."""
        kinds = getattr(model.config, "layer_types", None) or ["full_attention"] * len(model.model.layers)
        blocks = tuple(
            Block(number, kinds[number], module, {n: p.detach() for n, p in module.named_parameters()})
            for number, module in enumerate(model.model.layers)
        )
        return cls(model, blocks, {})

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.model.model.embed_tokens.weight.device

    @property
    def site_parameters(self) -> int:
        """Numbers in all single-role weights of all blocks: what `keep` is a share of."""
        return sum(block.site_parameters for block in self.blocks)

    @property
    def other_parameters(self) -> int:
        """Numbers outside the blocks; a tied embedding counts once."""
        inside = {id(p) for p in self.model.model.layers.parameters()}
        return sum(p.numel() for p in self.model.parameters() if id(p) not in inside)

    def embed(self, ids_NT: np.ndarray) -> Tensor:
        """Input of the first block [N, T, C]."""
        with torch.no_grad():
            return self.model.model.embed_tokens(torch.from_numpy(ids_NT).to(self.device))

    def run(self, block: Block, hidden_NTC: Tensor) -> Tensor:
        """Output [N, T, C] of one block, in batches that bound memory."""
        arguments = self._arguments_of(hidden_NTC.shape[1])[block.number]
        size = max(1, BATCH_TOKENS // hidden_NTC.shape[1])
        tensors = dict(block.tensors)
        parts = [_call(block.module, tensors, part, arguments) for part in hidden_NTC.split(size)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def norm(self, hidden_NTC: Tensor) -> Tensor:
        """The last hidden state after the final norm."""
        return self.model.model.norm(hidden_NTC)

    def logits(self, hidden_NTC: Tensor) -> Tensor:
        """Logits [N, T, V] of the last block's output."""
        return self.model.lm_head(self.norm(hidden_NTC))

    def forward(self, ids_NT: np.ndarray) -> Tensor:
        """Output of the last block [N, T, C], before the final norm."""
        hidden = self.embed(ids_NT)
        with torch.no_grad():
            for block in self.blocks:
                hidden = self.run(block, hidden)
        return hidden

    def with_blocks(self, blocks: Sequence[Block]) -> Decoder:
        """The same model with another row of blocks."""
        return replace(self, blocks=tuple(blocks))

    def folded(self, folds: Sequence[FoldBlocks]) -> Decoder:
        """The model after the folds; folds name blocks by source number."""
        merged = {fold.into: merge(self.blocks, fold) for fold in folds}
        gone = {number for fold in folds for number in fold.leaving}
        return self.with_blocks([merged.get(b.number, b) for b in self.blocks if b.number not in gone])

    def _arguments_of(self, window: int) -> tuple[dict[str, Any], ...]:
        """What the model's own forward hands each source block for windows of this length: mask, rotary, positions."""
        if window not in self._arguments:
            self._arguments[window] = block_arguments(self.model, window)
        return self._arguments[window]


def merge(blocks: Sequence[Block], fold: FoldBlocks) -> Block:
    """The block a fold leaves at `into`: combined projections and biases, norm gains of `norm_source`, float32."""
    named = {block.number: block for block in blocks}
    parts = [named[number] for number in fold.blocks]
    norms, into = named[fold.norm_source], named[fold.into]
    tensors: dict[str, Tensor] = {}
    for name in into.tensors:
        if _is_projection(name):
            tensors[name] = _combined([part.tensors[name] for part in parts], fold)
        else:
            tensors[name] = norms.tensors[name]
    return replace(into, tensors=tensors)


def _combined(tensors: Sequence[Tensor], fold: FoldBlocks) -> Tensor:
    coefficients = [fold.coefficients[number] for number in fold.blocks]
    for coefficient, tensor in zip(coefficients, tensors, strict=True):
        if coefficient == 1.0 and sum(c != 0.0 for c in coefficients) == 1:
            return tensor  # shared, not copied
    return torch.from_numpy(combine([t.cpu().numpy() for t in tensors], coefficients)).to(tensors[0].device)


def _is_projection(name: str) -> bool:
    return any(name.startswith(f"{path}.") for path in PATHS.values())


def load_decoder(checkpoint: Checkpoint, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Decoder:
    """Load a checkpoint for planning, from its folder and its safetensors alone. Raises SourceError."""
    return Decoder.of(load_model(checkpoint, dtype=dtype, device=device))


def load_model(checkpoint: Checkpoint, *, dtype: torch.dtype, device: str = "cpu") -> Any:
    """The transformers model of a known family, in evaluation mode. Raises SourceError."""
    if checkpoint.architecture not in FAMILIES:
        raise SourceError(
            checkpoint.path, f"architecture {checkpoint.architecture} cannot be planned for",
            f"known are {', '.join(FAMILIES)}",
        )
    if not device.startswith("cpu") and not torch.accelerator.is_available():
        raise ProviderUnavailable(device, "PyTorch finds no such device here", "plan on the cpu")
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint.path, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise SourceError(
            checkpoint.path, f"cannot be loaded: {reason[0] if reason else type(error).__name__}",
            "check that config.json and the safetensors files belong together",
        ) from None
    return model.requires_grad_(False).eval().to(device)


@contextmanager
def watch_inputs(block: Block, seen: Callable[[str, Tensor], None], roles: Sequence[str]) -> Iterator[None]:
    """Tell `seen(role, x [N, T, in])` each time one of the block's linears is run."""
    def hook(role: str) -> Callable[..., None]:
        return lambda _module, arguments: seen(role, arguments[0])

    handles = [block.linear(role).register_forward_pre_hook(hook(role)) for role in roles]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _call(module: nn.Module, tensors: dict[str, Tensor], hidden: Tensor, arguments: dict[str, Any]) -> Tensor:
    output = functional_call(module, tensors, (hidden,), arguments)
    return output[0] if isinstance(output, tuple) else output
